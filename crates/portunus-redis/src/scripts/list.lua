-- Lists who holds a lock and who waits, and forgets those whose session is no more.
--
-- KEYS  lock, line
-- ARGV  prefix of the keys of sessions
--
-- Returns  {'list', holder's value, its ttl in ms (-2: it is free), attempt, place, ...}
--          {'garbled', type}
local lock, line, sessions = KEYS[1], KEYS[2], ARGV[1]
local holder, garbled = read_lock(lock)
if garbled then return garbled end
local reply = {'list', holder and holder.value or '', left_of(lock, holder)}
local places = redis.call('HGETALL', line)
for at = 1, #places, 2 do
  local session = string.match(places[at + 1], '^(%x+):')
  if session and redis.call('HEXISTS', sessions .. session, places[at]) == 1 then
    reply[#reply + 1] = places[at]
    reply[#reply + 1] = places[at + 1]
  else
    redis.call('HDEL', line, places[at])
  end
end
return reply
