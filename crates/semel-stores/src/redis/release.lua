-- Releases of claims that did nothing. For each: the record, its shard.
-- Arguments: offset, channel; for each release its fence.
-- Answers: now; for each release 1 if the record is gone, else the record, nil, or {error}.

local now = times(ARGV[1])
local answers = { now }
for release = 1, #KEYS / 2 do
  local record, shard = KEYS[2 * release - 1], KEYS[2 * release]
  local value = redis.pcall('GET', record)
  local state = type(value) == 'string' and string.byte(value, 6)
  if type(value) == 'table' then
    answers[release + 1] = { value.err }
  elseif (state == IN_PROGRESS or state == HELD) and is_owned(value, ARGV[release + 2])
    and intact(value) then
    local written = redis.pcall('DEL', record)
    if type(written) == 'table' then
      answers[release + 1] = { written.err }
    else
      redis.call('ZREM', shard, record)
      tell(value, ARGV[2], record)
      answers[release + 1] = 1
    end
  else
    answers[release + 1] = value
  end
end
return answers
