-- Takes back a round that came to nothing, and bars it: what it sent and arrives later does nothing.
--
-- KEYS  session, lock, line
-- ARGV  attempt, round, session, position, record, whether the attempt goes on to wait, ttl in ms
--
-- Returns  {'ok'}
local session, lock, line = KEYS[1], KEYS[2], KEYS[3]
local attempt, round, owner, position, record, waits, ttl =
  ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1', ARGV[7]
local holder = read_lock(lock)
if holder and holder.attempt == attempt then
  -- A later round stands already, over this one.
  if holder.round > round then return {'ok'} end
  free(lock, line, attempt)
end
local own = redis.call('HMGET', session, 'live', attempt)
if not own[1] or own[2] == '-inf' then return {'ok'} end
local place = read_place(line, attempt)
if waits then
  local at = place or {session = owner, position = position, floor = 0, record = record}
  at.floor = math.max(at.floor, round)
  if position ~= '0' then at.position = position end
  write_place(line, attempt, at, ttl)
  redis.call('HSET', session, attempt, '+' .. #lock .. ' ' .. lock .. line)
elseif place then
  place.floor = math.max(place.floor, round)
  write_place(line, attempt, place, ttl)
else
  local known = own[2] and tonumber(string.match(own[2], '^%-(%d+)$')) or 0
  redis.call('HSET', session, attempt, '-' .. string.format('%d', math.max(known, round)))
end
return {'ok'}
