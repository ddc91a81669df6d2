-- What every script knows of a record's head. `wire.rs` specifies it.

local HEAD, SEALED, START = 72, 80, 'SEMR\1'
local COMPLETED, HELD, IN_PROGRESS = 67, 72, 80

local function checksum(head)
  return string.sub(redis.sha1hex(head), 1, 8)
end

local function seal(head)
  return head .. checksum(head)
end

-- Whether this script may act on the record. If not, the caller looks at it and says why.
local function intact(value)
  return value and type(value) == 'string' and #value > SEALED
    and string.sub(value, 1, 5) == START
    and checksum(string.sub(value, 1, HEAD)) == string.sub(value, HEAD + 1, SEALED)
end

local function is_owned(value, fence)
  return string.sub(value, 9, 32) == fence
end

local function number_at(value, place)
  return (struct.unpack('>I8', value, place))
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
local function next_counter(counters, value, micros)
  local highest = tonumber(redis.call('GET', counters)) or 0
  return math.max(highest + 1, value and number_at(value, 9) + 1 or 0, micros)
end
