-- Removes an entry of anybody's, if it still is the one named.
--
-- KEYS  lock, line
-- ARGV  attempt (or the whole value of another client), position, prefix of the keys of sessions, its session if
--       another server named it: then it is barred also where it has no entry now
--
-- Returns  {'removed' or 'absent', session, 'barred' or ''}   a session that does not live is not barred
local lock, line = KEYS[1], KEYS[2]
local attempt, position, sessions, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local is_barred = ''
local function bar(session)
  local key = sessions .. session
  if redis.call('HEXISTS', key, 'live') == 1 then
    redis.call('HSET', key, attempt, '-inf')
    is_barred = 'barred'
  end
  redis.call('PUBLISH', key, attempt)
end
if owner ~= '' then bar(owner) end
local holder = read_lock(lock)
if holder and holder.attempt == '' then
  if holder.value ~= attempt or position ~= '0' then return {'absent', '', ''} end
  free(lock, line, '')
  return {'removed', '', ''}
end
if holder and holder.attempt == attempt then
  -- Of several servers, one that was too late for the second phase knows no position.
  if holder.position ~= position and holder.position ~= '0' then return {'absent', owner, is_barred} end
  free(lock, line, attempt)
  bar(holder.session)
  return {'removed', holder.session, is_barred}
end
local place = read_place(line, attempt)
if not place or place.position ~= position then return {'absent', owner, is_barred} end
redis.call('HDEL', line, attempt)
bar(place.session)
return {'removed', place.session, is_barred}
