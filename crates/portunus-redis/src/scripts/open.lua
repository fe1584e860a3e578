-- Opens a session; seeds the server if that is asked for.
--
-- KEYS  node, session
-- ARGV  incarnation, ttl in ms, whether to seed a server that is not
--
-- Returns  {'open', incarnation}
--          {'unseeded'}, {'foreign', incarnation}   nothing was changed
local node, session = KEYS[1], KEYS[2]
local incarnation, ttl, seeds = ARGV[1], ARGV[2], ARGV[3] == '1'
local is, longest = unpack(redis.call('HMGET', node, 'incarnation', 'longest'))
if not is and seeds then
  redis.call('HSET', node, 'incarnation', incarnation, 'counter', '0', 'epoch', '0')
  is = incarnation
end
if not is then return {'unseeded'} end
if is ~= incarnation and not seeds then return {'foreign', is} end
-- What stands here may stand as long on others.
if tonumber(longest or '0') < tonumber(ttl) then redis.call('HSET', node, 'longest', ttl) end
redis.call('HSET', session, 'live', '1')
redis.call('PEXPIRE', session, ttl)
return {'open', is}
