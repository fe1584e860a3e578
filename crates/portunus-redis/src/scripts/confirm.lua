-- The second phase of a grant: the counter is raised to the token while the value still stands.
--
-- KEYS  node, lock
-- ARGV  attempt, round, token, epoch and number of the first phase, position
--
-- Returns  {'ok'}
--          {'failed'}   nothing was changed
local node, lock = KEYS[1], KEYS[2]
local attempt, round, token, epoch, number, position =
  ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local is = redis.call('HMGET', node, 'epoch', 'counter')
if is[1] ~= epoch then return {'failed'} end
local holder, garbled = read_lock(lock)
if garbled or not holder or holder.attempt ~= attempt or holder.round ~= round
  or holder.number ~= number then
  return {'failed'}
end
if tonumber(is[2]) < tonumber(token) then redis.call('HSET', node, 'counter', token) end
holder.token, holder.position = token, position
write_lock(lock, holder, 'XX', 'KEEPTTL')
return {'ok'}
