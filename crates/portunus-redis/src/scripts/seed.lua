-- Reads the state of a server, and changes it where that is asked for.
--
-- KEYS  node, wiped
-- ARGV  step, nonce; for `propose`: incarnation; for `seed`: incarnation, counter, the time in ms for which
--       the server is to keep out first, a number by chance that the epochs begin with
--
-- Steps: `read`; `fence` begins another epoch, so that no round from before it is confirmed here after
-- it; `propose` a first incarnation; `seed` writes the state of a server that has none. The last two do
-- nothing unless the nonce is that of this want of a state, for they may arrive late.
--
-- Returns  {'state', incarnation, counter, epoch, longest ttl}
--          {'unseeded', nonce, proposal}
--          {'waits', ms}   it is seeded later
local node, wiped, step, nonce = KEYS[1], KEYS[2], ARGV[1], ARGV[2]

local function state()
  local is = redis.call('HMGET', node, 'incarnation', 'counter', 'epoch', 'longest')
  return {'state', is[1] or '', is[2] or '', is[3] or '', is[4] or '0'}
end

if redis.call('EXISTS', node) == 1 then
  if step == 'fence' then redis.call('HINCRBY', node, 'epoch', 1) end
  return state()
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('HSETNX', wiped, 'nonce', nonce) == 1 then
  redis.call('HSET', wiped, 'since', string.format('%.0f', now))
end
local is = redis.call('HMGET', wiped, 'nonce', 'proposal', 'since')
if is[1] == nonce and step == 'propose' and not is[2] then
  redis.call('HSET', wiped, 'proposal', ARGV[3])
  is[2] = ARGV[3]
end
if is[1] == nonce and step == 'seed' then
  -- A lock that it had may stand on others still, and would be half of another majority here.
  local left = tonumber(is[3]) + tonumber(ARGV[5]) - now
  if left > 0 then return {'waits', left} end
  redis.call('HSET', node, 'incarnation', ARGV[3], 'counter', ARGV[4], 'epoch', ARGV[6])
  redis.call('DEL', wiped)
  return state()
end
return {'unseeded', is[1], is[2] or ''}
