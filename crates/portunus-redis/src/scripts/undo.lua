-- Takes back a round that came to nothing, and bars it: what it sent and arrives later does nothing.
--
-- KEYS  session, lock, line
-- ARGV  attempt, round, session, position, record, whether the attempt goes on to wait, ttl in ms
--
-- Returns  {'ok'}
--          {'late'}   an entry of the round was removed, and nothing was barred
local session, lock, line = KEYS[1], KEYS[2], KEYS[3]
local attempt, round, owner, position, record, waits, ttl =
  ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1', ARGV[7]
local holder = read_lock(lock)
if holder and holder.attempt == attempt then
  -- A later round stands already, over this one.
  if holder.round > round then return {'ok'} end
  free(lock, line, attempt)
end
local own = redis.call('HMGET', session, 'live', attempt, 'link')
if not own[1] or own[2] == '-inf' then return {'ok'} end
-- It bars nothing that comes by the newer connection.
if is_late(session, own[3]) then return {'late'} end
local place = read_place(line, attempt)
local known = own[2] and tonumber(string.match(own[2], '^%-(%d+)$')) or 0
-- Who is not known here has left, or comes with its next round.
if waits and (own[2] or place) then
  local at = place or {session = owner, position = position, floor = 0, record = record}
  at.floor = math.max(at.floor, round, known)
  if position ~= '0' then at.position = position end
  write_place(line, attempt, at, ttl)
  redis.call('HSET', session, attempt, '+' .. #lock .. ' ' .. lock .. line)
elseif place then
  place.floor = math.max(place.floor, round)
  write_place(line, attempt, place, ttl)
else
  redis.call('HSET', session, attempt, '-' .. string.format('%d', math.max(known, round)))
end
return {'ok'}
