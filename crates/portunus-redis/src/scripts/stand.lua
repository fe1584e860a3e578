-- Says whether a grant or a place stands.
--
-- KEYS  lock, line
-- ARGV  attempt, round of the grant (0: it waits), position
--
-- Returns  {'held', token}
--          {'waits', holder's value, its ttl in ms (-2: it is free)}
--          {'absent'}
local lock, line = KEYS[1], KEYS[2]
local attempt, round, position = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local holder, garbled = read_lock(lock)
if garbled then return garbled end
if round > 0 then
  if holder and holder.attempt == attempt and holder.round == round
    and (holder.position == position or holder.position == '0') then
    return {'held', holder.token}
  end
  return {'absent'}
end
local place = read_place(line, attempt)
-- Of several servers, one that was too late for what they agreed on knows no position.
if not place or (place.position ~= position and place.position ~= '0') then return {'absent'} end
return {'waits', holder and holder.value or '', left_of(lock, holder)}
