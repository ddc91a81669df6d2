-- What every script knows of a record's head. `wire.rs` specifies it.

local HEAD, SEALED, START = 72, 80, 'SEMR\1'
-- The member of a shard whose score is its highest counter; the others are open records.
local FENCE = 'fence'
local COMPLETED, HELD, IN_PROGRESS = 67, 72, 80

-- Eighteen words, each with a prime of its own, so that no damage to one of them and no swap of
-- two goes unnoticed. The sum stays below 2^53, where Lua's numbers end; and it is several times
-- quicker than `redis.sha1hex`.
local WORDS = '>' .. string.rep('I4', 18)

local function checksum(head)
  local a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r = struct.unpack(WORDS, head)
  return a * 65521 + b * 65519 + c * 65497 + d * 65479 + e * 65449 + f * 65447
    + g * 65437 + h * 65423 + i * 65419 + j * 65413 + k * 65407 + l * 65393
    + m * 65381 + n * 65371 + o * 65357 + p * 65353 + q * 65327 + r * 65323
end

local function number_at(value, place)
  return (struct.unpack('>I8', value, place))
end

local function seal(head)
  return head .. struct.pack('>I8', checksum(head))
end

-- Whether this script may act on the record. If not, the caller looks at it and says why.
local function intact(value)
  return value and type(value) == 'string' and #value > SEALED
    and string.sub(value, 1, 5) == START and checksum(value) == number_at(value, HEAD + 1)
end

local function is_owned(value, fence)
  return string.sub(value, 9, 32) == fence
end

-- A hint for waiters; whoever may not publish still has written the record.
local function tell(value, channel, record)
  if string.byte(value, 7) == 1 then
    redis.pcall('PUBLISH', channel, record)
  end
end

-- The server's clock; the offset is for tests, which cannot wait.
local function times(offset)
  local clock = redis.call('TIME')
  local micros = clock[1] * 1000000 + clock[2]
  return math.floor(micros / 1000) + offset, micros
end

-- The clock keeps the counter rising even if the server lost its latest writes.
local function next_counter(shard, value, micros)
  local highest = tonumber(redis.call('ZSCORE', shard, FENCE)) or 0
  return math.max(highest + 1, value and number_at(value, 9) + 1 or 0, micros)
end
