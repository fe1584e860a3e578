-- One fenced step: checks the token, raises the mark, and runs commands, with nothing in between.
--
-- KEYS[1]  the mark's hash: fields `token` (decimal), `origin` and `value`
-- ARGV     token, origin, then each command as the number of its words and the words
--
-- Returns  {'passed', {reply, ...}}
--          {'refused', token, origin}       the mark; nothing was changed
--          {'failed', n, error}            the nth command; the mark is raised, those before it stay
--          {'garbled', what}                nothing was changed
local key, token, origin = KEYS[1], ARGV[1], ARGV[2]

-- Tokens are compared as text: as numbers they are doubles here, which lose the end above 2^53.
local function below(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local mark = redis.pcall('HMGET', key, 'token', 'origin')
if mark.err then return {'garbled', 'a ' .. redis.call('TYPE', key).ok} end
if mark[1] and mark[2] and string.match(mark[1], '^[1-9]%d*$') then
  if mark[2] ~= origin or below(token, mark[1]) then return {'refused', mark[1], mark[2]} end
elseif mark[1] or mark[2] or redis.call('EXISTS', key) == 1 then
  return {'garbled', 'a hash without a token or an origin'}
end

-- A holder's later steps need not write it again.
if mark[1] ~= token then redis.call('HSET', key, 'token', token, 'origin', origin) end
local replies, at, n = {}, 3, 0
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  n = n + 1
  -- `pcall`: an error ends the script, but takes nothing back.
  local reply = redis.pcall(unpack(ARGV, at + 1, at + words))
  if type(reply) == 'table' and reply.err then return {'failed', n, reply.err} end
  replies[n] = reply
  at = at + 1 + words
end
return {'passed', replies}
