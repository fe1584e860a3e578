-- One round of an attempt for its lock, or its place among those who wait.
--
-- KEYS  node, session, lock, line
-- ARGV  incarnation, attempt, round, session, ttl in ms, position (0: none yet), record, mode,
--       whether this server is the only one
--
-- Modes: `enter` makes an entry that waits if need be, `stand` the same without trying for the lock,
-- `try` makes none unless it holds, `look` goes on with one that stands and makes none.
--
-- Returns  {'held', number, position, epoch}
--          {'taken', position, holder's value, its ttl in ms (-2: it is free)}   nothing but the place was written
--          {'unseeded'}, {'foreign'}, {'ended'}, {'late'}, {'left'}, {'absent'}, {'garbled', type}   nothing was,
--          but that a number may be used up
local node, session, lock, line = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local incarnation, attempt, round, owner, ttl, position, record, mode, alone =
  ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9] == '1'

local is = redis.call('HMGET', node, 'incarnation', 'epoch')
if not is[1] then return {'unseeded'} end
if is[1] ~= incarnation then return {'foreign'} end
local own = redis.call('HMGET', session, 'live', attempt, 'link')
if not own[1] then return {'ended'} end
if is_late(session, own[3]) then return {'late'} end
local known, undone = own[2], false
if known == '-inf' then return {'left'} end
if known and string.sub(known, 1, 1) == '-' then
  if tonumber(string.sub(known, 2)) >= round then return {'left'} end
  known, undone = nil, true
end
-- Who never entered here stands nowhere.
local place = known and read_place(line, attempt)
if place and place.floor >= round then return {'left'} end
if place and position ~= '0' and place.position ~= '0' and place.position ~= position then
  return {'absent'}
end
local number
-- A request uses one number, whatever it comes to.
local function next_number()
  number = number or string.format('%.0f', redis.call('HINCRBY', node, 'counter', 1))
  return number
end

local function stand()
  if not known then
    redis.call('HSET', session, attempt, '+' .. #lock .. ' ' .. lock .. line)
  end
end

-- Makes the entry, if that is possible in this way, and says so.
local function hold(...)
  local own, first = next_number(), alone and position == '0'
  local at = {attempt = attempt, round = round, session = owner, position = first and own or position,
    number = own, token = alone and own or '0', serial = 0, record = record}
  return write_lock(lock, at, 'PX', ttl, ...) and {'held', own, at.position, is[2]}
end

-- Who is new mostly finds the lock free, and need not read it.
local held = mode == 'enter' and position == '0' and not known and not undone and hold('NX')
if held then
  stand()
  return held
end
local holder, garbled = read_lock(lock)
if garbled then return garbled end
if holder and holder.attempt == attempt then
  if position ~= '0' and holder.position ~= '0' and holder.position ~= position then
    return {'absent'}
  end
  if holder.round > round then return {'left'} end
  if holder.round == round then
    -- Made by a request whose answer was lost: what is granted now lasts as long as what is made now.
    if alone then redis.call('PEXPIRE', lock, ttl) end
    return {'held', holder.number, holder.position, is[2]}
  end
end
local own_round = holder and holder.attempt == attempt
-- An entry of which a round was taken back after its place had gone stands again.
if mode == 'look' and not place and not own_round and not undone then return {'absent'} end
-- It stood, and was not taken back: it has expired or was removed, and is not made again.
if known and not place and not own_round then return {'absent'} end
if place and position == '0' then position = place.position end

if (holder and not own_round) or mode == 'stand' then
  local value = holder and holder.value or ''
  local left = left_of(lock, holder)
  if mode == 'try' then return {'taken', '0', value, left} end
  local seen = position
  if position == '0' then
    seen = next_number()
    if alone then position = seen end
  end
  local at = place or {session = owner, floor = 0, record = record}
  at.position = position
  write_place(line, attempt, at, ttl)
  stand()
  return {'taken', seen, value, left}
end

-- An earlier round of the same attempt, in which nobody believes, is written over.
held = hold(holder and 'XX' or 'NX')
stand()
if place then redis.call('HDEL', line, attempt) end
return held
