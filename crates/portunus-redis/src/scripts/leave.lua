-- Ends an attempt: its lock or its place goes, and no other's.
--
-- KEYS  session, lock, line
-- ARGV  attempt, whether a request of it may still be on its way
--
-- Returns  {'removed'}, {'absent'}
local session, lock, line = KEYS[1], KEYS[2], KEYS[3]
local attempt, doubt = ARGV[1], ARGV[2] == '1'
local gone = false
local holder = read_lock(lock)
if holder and holder.attempt == attempt then
  free(lock, line, attempt)
  gone = true
end
if redis.call('HDEL', line, attempt) == 1 then gone = true end
-- The tombstone lives as long as its session, without which no request of it does anything.
if not doubt then
  redis.call('HDEL', session, attempt)
elseif redis.call('EXISTS', session) == 1 then
  redis.call('HSET', session, attempt, '-inf')
end
return {gone and 'removed' or 'absent'}
