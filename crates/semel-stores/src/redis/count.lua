-- How many records of a shard are open. Keys: indexes. Arguments: offset.
-- Answers: held, interrupted, in progress, silent.

local now = times(ARGV[1])
local counts = { 0, 0, 0, 0 }
for _, open in ipairs(KEYS) do
  for place, range in ipairs({ { -2, -2 }, { -1, -1 }, { 0, '+inf' }, { 0, now } }) do
    counts[place] = counts[place] + redis.call('ZCOUNT', open, range[1], range[2])
  end
end
return counts
