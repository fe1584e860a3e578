-- Extends a session and the locks of it.
--
-- KEYS  node, session, lock...
-- ARGV  incarnation, ttl in ms, then `<attempt>:<round>:` for each lock
--
-- Returns  {'ok', n...}   the numbers of those whose lock is not theirs any more
--          {'ended'}      nothing was changed
local node, session, incarnation, ttl = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
-- What a server has of another life was copied from the one that it came after.
if redis.call('HGET', node, 'incarnation') ~= incarnation then return {'ended'} end
if redis.call('HEXISTS', session, 'live') == 0 then return {'ended'} end
redis.call('PEXPIRE', session, ttl)
local reply = {'ok'}
for at = 3, #KEYS do
  local value, owner = redis.pcall('GET', KEYS[at]), ARGV[at]
  if type(value) == 'string' and string.sub(value, 1, #owner) == owner then
    redis.call('PEXPIRE', KEYS[at], ttl)
  else
    reply[#reply + 1] = at - 2
  end
end
return reply
