-- Replaces what a grant says about itself; of several writes the one that was called last stands.
--
-- KEYS  lock, line
-- ARGV  attempt, round, position, serial, record
--
-- Returns  {'ok'}
--          {'stale'}, {'absent'}   nothing was changed
local lock, line = KEYS[1], KEYS[2]
local holder, garbled = read_lock(lock)
if garbled or not holder or holder.attempt ~= ARGV[1] or holder.round ~= tonumber(ARGV[2])
  or (holder.position ~= ARGV[3] and holder.position ~= '0') then
  return {'absent'}
end
local serial = tonumber(ARGV[4])
if holder.serial >= serial then return {'stale'} end
holder.serial, holder.record = serial, ARGV[5]
write_lock(lock, holder, 'XX', 'KEEPTTL')
-- For those who follow; who waits knows that nobody went.
redis.call('PUBLISH', channel_of(line), '=')
return {'ok'}
