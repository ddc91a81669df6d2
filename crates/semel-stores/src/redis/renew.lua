-- Renewals without a step. For each: the record, its shard.
-- Arguments: offset; for each renewal fence, lease.
-- Answers: now; for each renewal the end of its lease, else the record, nil, or {error}.

local now = times(ARGV[1])
local answers = { now }
for renewal = 1, #KEYS / 2 do
  local record, shard = KEYS[2 * renewal - 1], KEYS[2 * renewal]
  local argument = 2 * renewal
  local value = redis.pcall('GET', record)
  if type(value) == 'table' then
    answers[renewal + 1] = { value.err }
  elseif value and string.byte(value, 6) == IN_PROGRESS and is_owned(value, ARGV[argument])
    and intact(value) then
    local deadline = math.max(now + ARGV[argument + 1], number_at(value, 41))
    local head = string.sub(value, 1, 32)
      .. struct.pack('>I8I8', number_at(value, 33) + 1, deadline) .. string.sub(value, 49, 56)
      .. struct.pack('>I8', now) .. string.sub(value, 65, HEAD)
    local written = redis.pcall('SETRANGE', record, 0, seal(head))
    if type(written) == 'table' then
      answers[renewal + 1] = { written.err }
    else
      redis.call('ZADD', shard, 'XX', deadline, record)
      answers[renewal + 1] = deadline
    end
  else
    answers[renewal + 1] = value
  end
end
return answers
