-- Extends a session and the locks of it.
--
-- KEYS  session, lock...
-- ARGV  ttl in ms, then `<attempt>:<round>:` for each lock
--
-- Returns  {'ok', n...}   the numbers of those whose lock is not theirs any more
--          {'ended'}      nothing was changed
local session, ttl = KEYS[1], ARGV[1]
if redis.call('PEXPIRE', session, ttl) == 0 then return {'ended'} end
local reply = {'ok'}
for at = 2, #KEYS do
  local value, owner = redis.pcall('GET', KEYS[at]), ARGV[at]
  if type(value) == 'string' and string.sub(value, 1, #owner) == owner then
    redis.call('PEXPIRE', KEYS[at], ttl)
  else
    reply[#reply + 1] = at - 1
  end
end
return reply
