-- Records and the time at which they were read. Arguments: offset, how many bytes of each.
-- Answers: now; for each record its start, nil, or {error}.

local answers = { (times(ARGV[1])) }
for place, record in ipairs(KEYS) do
  local value
  if ARGV[2] == '' then
    value = redis.pcall('GET', record)
  else
    value = redis.pcall('GETRANGE', record, 0, ARGV[2] - 1)
    if value == '' then
      value = false
    end
  end
  if type(value) == 'table' then
    value = { value.err }
  end
  answers[place + 1] = value
end
return answers
