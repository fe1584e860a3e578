-- Reads a mark and the value beside it. A script, because a client may send commands that only read
-- to replicas, which lag behind.
--
-- KEYS[1]  the mark's hash: fields `token` (decimal), `origin` and `value`
--
-- Returns  {'mark', token, origin, value}   value: nil if none was written
--          {'none'}
--          {'garbled', what}
local key = KEYS[1]
local kind = redis.call('TYPE', key).ok
if kind == 'none' then return {'none'} end
if kind ~= 'hash' then return {'garbled', 'a ' .. kind} end
local mark = redis.call('HMGET', key, 'token', 'origin', 'value')
if not mark[1] or not mark[2] then return {'garbled', 'a hash without a token or an origin'} end
return {'mark', mark[1], mark[2], mark[3]}
