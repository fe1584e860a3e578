-- Reads the state of a server, and changes it where that is asked for.
--
-- KEYS  node, wiped
-- ARGV  step, nonce; for `propose`: incarnation; for `begin` and `seed`: incarnation, a number by chance that
--       the epochs begin with; for `seed`: counter, the time in ms for which the server is to keep out first,
--       layout (empty: not known)
--
-- Steps: `read`; `fence` begins another epoch, so that no round from before it is confirmed here after
-- it; `propose` a first incarnation; `begin` it; `seed` writes the state of a server that lost its own. The last
-- three do nothing unless the nonce is that of this want of a state, for they may arrive late, after
-- another wipe. So only the first two name a want.
--
-- Returns  {'state', incarnation, counter, epoch, longest ttl, layout}
--          {'unseeded', nonce, proposal, ms since it was noticed}
local node, wiped, step, nonce = KEYS[1], KEYS[2], ARGV[1], ARGV[2]

local function state()
  local is = redis.call('HMGET', node, 'incarnation', 'counter', 'epoch', 'longest', 'layout')
  return {'state', is[1] or '', is[2] or '', is[3] or '', is[4] or '0', is[5] or ''}
end

if redis.call('EXISTS', node) == 1 then
  if step == 'fence' then redis.call('HINCRBY', node, 'epoch', 1) end
  return state()
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- With the moment: a read that is carried out twice names no two wants alike.
local name = nonce .. ':' .. time[1] .. '.' .. time[2]
if (step == 'read' or step == 'fence') and redis.call('HSETNX', wiped, 'nonce', name) == 1 then
  redis.call('HSET', wiped, 'since', string.format('%.0f', now))
end
local is = redis.call('HMGET', wiped, 'nonce', 'proposal', 'since')
local age = now - tonumber(is[3] or now)
if is[1] == nonce and step == 'propose' and not is[2] then
  redis.call('HSET', wiped, 'proposal', ARGV[3])
  is[2] = ARGV[3]
end
local function write(counter)
  redis.call('HSET', node, 'incarnation', ARGV[3], 'counter', counter, 'epoch', ARGV[4])
  redis.call('DEL', wiped)
  return state()
end
if is[1] == nonce and step == 'begin' and is[2] == ARGV[3] then return write('0') end
-- A lock that it had may stand on others still, and would be half of another majority here.
if is[1] == nonce and step == 'seed' and age >= tonumber(ARGV[6]) then
  if ARGV[7] ~= '' then redis.call('HSET', node, 'layout', ARGV[7]) end
  return write(ARGV[5])
end
return {'unseeded', is[1] or '', is[2] or '', string.format('%.0f', math.max(age, 0))}
