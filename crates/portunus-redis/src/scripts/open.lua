-- Opens a session; seeds the server if that is asked for.
--
-- KEYS  node, session
-- ARGV  incarnation, ttl in ms, whether to seed a server that is not, how keys of locks are called, the
--       connection by which the session's requests come from now on
--
-- Returns  {'open', incarnation}
--          {'unseeded'}, {'foreign', incarnation}, {'layout', theirs}, {'closed'}   nothing was changed
local node, session = KEYS[1], KEYS[2]
local incarnation, ttl, seeds, layout = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4]
if redis.call('HEXISTS', session, 'closed') == 1 then return {'closed'} end
local is, longest, theirs = unpack(redis.call('HMGET', node, 'incarnation', 'longest', 'layout'))
if not is and not seeds then return {'unseeded'} end
if is and is ~= incarnation and not seeds then return {'foreign', is} end
-- Locks of one name under two keys would not exclude each other.
if theirs and theirs ~= layout then return {'layout', theirs} end
if not is then
  redis.call('HSET', node, 'incarnation', incarnation, 'counter', '0', 'epoch', '0')
  is = incarnation
end
if not theirs then redis.call('HSET', node, 'layout', layout) end
-- What stands here may stand as long on others.
if tonumber(longest or '0') < tonumber(ttl) then redis.call('HSET', node, 'longest', ttl) end
redis.call('HSET', session, 'live', '1')
-- One that is opened again here, after it was lost, knows no tombstones of before.
if tonumber(redis.call('HGET', session, 'link') or '0') < tonumber(ARGV[5]) then
  redis.call('HSET', session, 'link', ARGV[5])
end
redis.call('PEXPIRE', session, ttl)
return {'open', is}
