-- Ends a session with all that it holds and waits for. What stays for a while bars an `open` that arrives late.
--
-- KEYS  session
-- ARGV  how long a request may be late, in ms
--
-- Returns  {'ok'}
local session, late = KEYS[1], ARGV[1]
local own = redis.call('HGETALL', session)
for at = 1, #own, 2 do
  local attempt = own[at]
  local lock, line = keys_of(own[at + 1])
  if lock then
    local holder = read_lock(lock)
    if holder and holder.attempt == attempt then free(lock, line, attempt) end
    redis.call('HDEL', line, attempt)
  end
end
redis.call('DEL', session)
redis.call('HSET', session, 'closed', '1')
redis.call('PEXPIRE', session, late)
redis.call('PUBLISH', session, '*')
return {'ok'}
