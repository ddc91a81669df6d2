-- Deletes records that have expired by the shifted clock. Arguments: offset, how many at most.
-- Answers how many there were.

local now = times(ARGV[1])
local swept = 0
for _, record in ipairs(KEYS) do
  local value = redis.pcall('GET', record)
  if swept < tonumber(ARGV[2]) and intact(value) and string.byte(value, 6) == COMPLETED
    and number_at(value, 41) <= now then
    swept = swept + redis.call('DEL', record)
  end
end
return swept
