-- Ends an attempt: its lock or its place goes, and no other's.
--
-- KEYS  session, lock, line
-- ARGV  attempt, the newest connection that may still bring a request of it (0: none ever went unanswered)
--
-- Returns  {'removed'}, {'absent'}
local session, lock, line = KEYS[1], KEYS[2], KEYS[3]
local attempt, newest = ARGV[1], tonumber(ARGV[2])
local gone = false
local holder = read_lock(lock)
if holder and holder.attempt == attempt then
  free(lock, line, attempt)
  gone = true
end
if newest == 0 then
  -- Each of its requests was answered: who holds waits no more, and nothing has to be barred.
  if not gone then gone = redis.call('HDEL', line, attempt) == 1 end
  redis.call('HDEL', session, attempt)
  return {gone and 'removed' or 'absent'}
end
if redis.call('HDEL', line, attempt) == 1 then gone = true end
local own = redis.call('HMGET', session, 'live', 'link')
if own[1] then
  is_late(session, own[2])
  -- What was lost on this connection came before this, and what comes by an older one than the session has
  -- heard of makes nothing. For the rest there is a tombstone, as long as the session lives.
  if newest <= tonumber(ARGV[#ARGV]) or newest < tonumber(own[2] or '0') then
    redis.call('HDEL', session, attempt)
  else
    redis.call('HSET', session, attempt, '-inf')
  end
end
return {gone and 'removed' or 'absent'}
