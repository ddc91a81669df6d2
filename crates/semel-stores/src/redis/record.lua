-- What every script knows of a record's head. `wire.rs` specifies it.

local HEAD, SEALED, VERSION, START = 72, 80, 1, 'SEMR\1'
-- The member of a shard whose score is its highest counter; the others are open records.
local FENCE = 'fence'
local COMPLETED, HELD, IN_PROGRESS = 67, 72, 80

-- Eighteen words of four bytes, each with a prime of its own, so that no damage to one of them and
-- no swap of two goes unnoticed. The sum stays below 2^53, where Lua's numbers end.
local function checksum(head)
  local a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r =
    struct.unpack('>I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4', head)
  return a * 65521 + b * 65519 + c * 65497 + d * 65479 + e * 65449 + f * 65447
    + g * 65437 + h * 65423 + i * 65419 + j * 65413 + k * 65407 + l * 65393
    + m * 65381 + n * 65371 + o * 65357 + p * 65353 + q * 65327 + r * 65323
end

-- The share of a number of eight bytes in the checksum, by the primes of its words. The sum is
-- linear, so the hot scripts only add what they change; that is ten times quicker, and damage
-- stays as visible as it was.
local function share(number, high, low)
  local lower = number % 4294967296
  return (number - lower) / 4294967296 * high + lower * low
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

-- Takes a counter for a new claim and puts the record among the open ones. The clock keeps the
-- counter rising even if the server lost its latest writes. `value` is what the claim replaces.
-- Returns the counter, or nothing and the error of a server that refuses the write.
local function enter(shard, record, score, value, micros)
  local counter = math.max(value and number_at(value, 9) + 1 or 0, micros)
  -- In one step while the clock is ahead of the shard's counter, which only ever rises. Numbers
  -- are formatted here because Redis takes four times as long for it.
  local entered = redis.pcall('ZADD', shard, 'GT', 'CH', string.format('%d', counter), FENCE,
    score, record)
  if type(entered) == 'table' then
    return nil, entered.err
  end
  if entered < 2 then
    counter = math.max(counter, tonumber(redis.call('ZSCORE', shard, FENCE)) + 1)
    redis.call('ZADD', shard, string.format('%d', counter), FENCE, score, record)
  end
  return counter
end
