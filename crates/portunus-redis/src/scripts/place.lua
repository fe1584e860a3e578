-- Gives a waiter the position that its servers agree on, and raises the counter to it, so that who
-- comes later stands behind.
--
-- KEYS  node, session, lock, line
-- ARGV  attempt, position
--
-- Returns  {'ok'}, {'absent'}
local node, line = KEYS[1], KEYS[4]
local attempt, position = ARGV[1], ARGV[2]
local place = read_place(line, attempt)
if not place then return {'absent'} end
-- A later round may have raised it already.
if tonumber(place.position) >= tonumber(position) then return {'ok'} end
place.position = position
redis.call('HSET', line, attempt, table.concat({place.session, place.position,
  string.format('%d', place.floor), place.record}, ':'))
local counter = redis.call('HGET', node, 'counter')
if counter and tonumber(counter) < tonumber(position) then
  redis.call('HSET', node, 'counter', position)
end
return {'ok'}
