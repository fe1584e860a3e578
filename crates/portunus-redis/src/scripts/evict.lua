-- Removes an entry of anybody's, if it still is the one named.
--
-- KEYS  lock, line
-- ARGV  attempt (or the whole value of another client), position, prefix of the keys of sessions
--
-- Returns  {'removed'}, {'absent'}
local lock, line = KEYS[1], KEYS[2]
local attempt, position, sessions = ARGV[1], ARGV[2], ARGV[3]
local function bar(session)
  local key = sessions .. session
  if redis.call('EXISTS', key) == 1 then redis.call('HSET', key, attempt, '-inf') end
  redis.call('PUBLISH', key, attempt)
end
local holder = read_lock(lock)
if holder and holder.attempt == '' then
  if holder.value ~= attempt or position ~= '0' then return {'absent'} end
  free(lock, line, '')
  return {'removed'}
end
if holder and holder.attempt == attempt then
  -- Of several servers, one that was too late for the second phase knows no position.
  if holder.position ~= position and holder.position ~= '0' then return {'absent'} end
  free(lock, line, attempt)
  bar(holder.session)
  return {'removed'}
end
local place = read_place(line, attempt)
if not place or place.position ~= position then return {'absent'} end
redis.call('HDEL', line, attempt)
bar(place.session)
return {'removed'}
