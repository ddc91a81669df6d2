-- Claims. For each: the record, its shard.
-- Arguments: offset; for each claim nonce, effect, checksum of its head while all numbers but the
-- revision are zero, lease, until when it may insert, names.
-- Answers: now; for each claim its counter if it inserted, else the record, nil, or {error}.

local now, micros = times(ARGV[1])
local answers = { now }
for claim = 1, #KEYS / 2 do
  local record, shard = KEYS[2 * claim - 1], KEYS[2 * claim]
  local argument = 6 * claim - 4
  local value = redis.pcall('GET', record)
  local is_vacant = not value
  if type(value) == 'string' and string.byte(value, 6) == COMPLETED
    and number_at(value, 41) <= now then
    is_vacant = intact(value)
  end
  if type(value) == 'table' then
    answers[claim + 1] = { value.err }
  elseif is_vacant and now < tonumber(ARGV[argument + 4]) then
    local deadline = now + ARGV[argument + 3]
    -- The first write of a script is the one that a full server refuses. The claims of one call
    -- are a microsecond apart.
    local counter, refused = enter(shard, record, string.format('%d', deadline), value,
      micros + claim)
    if counter then
      local sum = ARGV[argument + 2] + share(counter, 65497, 65479) + share(deadline, 65407, 65393)
        + share(now, 65357 + 65327, 65353 + 65323)
      local head = START .. 'P\0' .. ARGV[argument + 1] .. struct.pack('>I8', counter)
        .. ARGV[argument] .. struct.pack('>I8I8I8I8I8I8', 1, deadline, 0, now, now, sum)
      redis.call('SET', record, head .. ARGV[argument + 5])
      answers[claim + 1] = counter
    else
      answers[claim + 1] = { refused }
    end
  else
    answers[claim + 1] = value
  end
end
return answers
