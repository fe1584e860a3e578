-- Begins another life of the store on a server that was no master when the present one began: it may lack the
-- last locks and tokens.
--
-- KEYS  node
-- ARGV  replication id of the server, incarnation
--
-- Returns  {'ok'}
local node, master, incarnation = KEYS[1], ARGV[1], ARGV[2]
local is = redis.call('HMGET', node, 'incarnation', 'master')
if is[2] == master then return {'ok'} end
if is[1] then redis.call('HSET', node, 'incarnation', incarnation) end
redis.call('HSET', node, 'master', master)
return {'ok'}
