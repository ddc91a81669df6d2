-- Completions. For each: the record, its shard.
-- Arguments: offset, channel; for each completion fence, retention, outcome.
-- Answers: now; for each completion when it expires, else the record, nil, or {error}.

local now = times(ARGV[1])
local answers = { now }
for completion = 1, #KEYS / 2 do
  local record, shard = KEYS[2 * completion - 1], KEYS[2 * completion]
  local argument = 3 * completion
  local value = redis.pcall('GET', record)
  local state = type(value) == 'string' and string.byte(value, 6)
  if type(value) == 'table' then
    answers[completion + 1] = { value.err }
  elseif (state == IN_PROGRESS or state == HELD) and is_owned(value, ARGV[argument])
    and string.byte(value, 5) == VERSION then
    local expires = now + ARGV[argument + 1]
    local revision, deadline, since, updated, created, sum =
      struct.unpack('>I8I8I8I8I8I8', value, 33)
    local mark = string.byte(value, 7)
    sum = sum + ((COMPLETED - state) * 65536 - mark * 256) * 65519 + 65413
      + share(expires, 65407, 65393) - share(deadline, 65407, 65393)
      + share(now, 65381, 65371) - share(since, 65381, 65371)
      + share(now, 65357, 65353) - share(updated, 65357, 65353)
    local head = START .. 'C\0' .. string.sub(value, 8, 32)
      .. struct.pack('>I8I8I8I8I8I8', revision + 1, expires, now, now, created, sum)
    local length = struct.unpack('>I2', value, SEALED + 1)
    local names = string.sub(value, SEALED + 1, SEALED + 2 + length)
    local written = redis.pcall('SET', record, head .. names .. ARGV[argument + 2],
      'PXAT', string.format('%d', expires - ARGV[1]))
    if written.err then
      answers[completion + 1] = { written.err }
    else
      redis.call('ZREM', shard, record)
      tell(value, ARGV[2], record)
      answers[completion + 1] = expires
    end
  else
    answers[completion + 1] = value
  end
end
return answers
