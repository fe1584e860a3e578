-- The records on a server, and what all scripts share. Each script is one atomic step on one server. The last
-- of ARGV is always the number of the connection that the request came by.
--
-- node    hash    `incarnation`, `counter`, `epoch`, `longest` time to live so far, `layout` with the number of
--                 masters; absent on a server that was never seeded, or was wiped
-- session hash    `live`, or `closed`; `link`, the newest connection that it was asked by; each attempt of it:
--                 `+<length> <lock's key><line's key>` while it stands, `-<round>` when its rounds up to that one
--                 are over, `-inf` when it has left for good
-- wiped   hash    on a server without `node`: `nonce`, `since`, and `proposal` of a first incarnation
-- lock    string  `<attempt>:<round>:<session>:<position>:<number>:<token>:<serial>:<record>`; the number is this
--                 server's own, the token 0 until it is confirmed; anything else is another client's, and holds
--                 as well
-- line    hash    those who wait: attempt to `<session>:<position>:<floor>:<record>`

-- Says whether what came by a connection may have been overtaken: the session was asked by a newer one. Such a
-- request makes nothing. `heard` is the session's `link`.
local function is_late(session, heard)
  local link = tonumber(ARGV[#ARGV])
  heard = tonumber(heard or '0')
  if heard < link then redis.call('HSET', session, 'link', string.format('%d', link)) end
  return heard > link
end

-- Time to live of a lock's key as `PTTL` says it; -2 if it is free, whatever the value.
local function left_of(lock, holder) return holder and redis.call('PTTL', lock) or -2 end

local function read_lock(key)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' and value.err then
    return nil, {'garbled', redis.call('TYPE', key).ok}
  end
  if not value then return nil end
  local at = {string.match(value, '^(%x+):(%d+):(%x+):(%d+):(%d+):(%d+):(%d+):(.*)$')}
  if #at == 8 and #at[1] == 32 then
    return {attempt = at[1], round = tonumber(at[2]), session = at[3], position = at[4],
      number = at[5], token = at[6], serial = tonumber(at[7]), record = at[8], value = value}
  end
  return {attempt = '', round = 0, value = value}
end

local function write_lock(key, at, ...)
  local value = table.concat({at.attempt, string.format('%d', at.round), at.session, at.position,
    at.number, at.token, string.format('%d', at.serial), at.record}, ':')
  return redis.call('SET', key, value, ...)
end

local function read_place(line, attempt)
  local place = redis.call('HGET', line, attempt)
  if not place then return nil end
  local session, position, floor, record = string.match(place, '^(%x+):(%d+):(%d+):(.*)$')
  return {session = session, position = position, floor = tonumber(floor), record = record}
end

local function write_place(line, attempt, at, ttl)
  redis.call('HSET', line, attempt, table.concat({at.session, at.position,
    string.format('%d', at.floor), at.record}, ':'))
  -- Who waits looks at least once in its time to live.
  local keep = 4 * tonumber(ttl)
  if redis.call('PTTL', line) < keep then redis.call('PEXPIRE', line, keep) end
end

local function keys_of(standing)
  local length, rest = string.match(standing or '', '^%+(%d+) (.*)$')
  if not length then return nil end
  return string.sub(rest, 1, tonumber(length)), string.sub(rest, tonumber(length) + 1)
end

local function channel_of(line) return string.sub(line, 1, -#':line' - 1) end

-- Deletes the lock's key and tells those who wait.
local function free(lock, line, attempt)
  redis.call('DEL', lock)
  redis.call('PUBLISH', channel_of(line), attempt)
end
