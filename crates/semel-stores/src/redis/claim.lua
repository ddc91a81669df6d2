-- Claims. For each: the record, its shard.
-- Arguments: offset; for each claim nonce, effect, lease, until when it may insert, names.
-- Answers: now; for each claim its counter if it inserted, else the record, nil, or {error}.

local now, micros = times(ARGV[1])
local answers = { now }
for claim = 1, #KEYS / 2 do
  local record, shard = KEYS[2 * claim - 1], KEYS[2 * claim]
  local argument = 5 * claim - 3
  local value = redis.pcall('GET', record)
  local is_vacant = not value
  if type(value) == 'string' and string.byte(value, 6) == COMPLETED and intact(value) then
    is_vacant = number_at(value, 41) <= now
  end
  if type(value) == 'table' then
    answers[claim + 1] = { value.err }
  elseif is_vacant and now < tonumber(ARGV[argument + 3]) then
    local counter = next_counter(shard, value, micros)
    local deadline = now + ARGV[argument + 2]
    local head = START .. 'P\0' .. ARGV[argument + 1] .. struct.pack('>I8', counter)
      .. ARGV[argument] .. struct.pack('>I8I8I8I8I8', 1, deadline, 0, now, now)
    -- The first write of a script is the one that a full server refuses.
    local written = redis.pcall('SET', record, seal(head) .. ARGV[argument + 4])
    if written.err then
      answers[claim + 1] = { written.err }
    else
      redis.call('ZADD', shard, counter, FENCE, deadline, record)
      answers[claim + 1] = counter
    end
  else
    answers[claim + 1] = value
  end
end
return answers
