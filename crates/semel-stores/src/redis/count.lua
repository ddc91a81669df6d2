-- How many records of these shards are open. Keys: shards. Arguments: offset.
-- Answers: held, interrupted, in progress, silent.

local now = times(ARGV[1])
local counts = { 0, 0, 0, 0 }
for _, shard in ipairs(KEYS) do
  for place, range in ipairs({ { -2, -2 }, { -1, -1 }, { 0, '+inf' }, { 0, now } }) do
    counts[place] = counts[place] + redis.call('ZCOUNT', shard, range[1], range[2])
  end
  if redis.call('ZSCORE', shard, FENCE) then
    counts[3] = counts[3] - 1
  end
end
return counts
