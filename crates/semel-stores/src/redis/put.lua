-- One transition that was decided outside, if the record is still the one it was decided for.
-- Keys: the record, its shard, the audit list of the key's text.
-- Arguments: offset, channel, fence and revision of the record that was seen, the new head (empty
-- deletes), what follows the head, whether the claim needs a new counter, its score in the shard
-- (empty removes it), an audit entry (empty for none).
-- Answers: {1, counter} if it was written, else {now, the record or nil}.

local now, micros = times(ARGV[1])
local record, shard, audit = KEYS[1], KEYS[2], KEYS[3]
local value, head = redis.call('GET', record), ARGV[4]
if not value or string.sub(value, 9, 40) ~= ARGV[3] then
  return { now, value }
end
local counter = 0
if head == '' then
  redis.call('DEL', record)
else
  if ARGV[6] == '1' then
    counter = enter(shard, record, ARGV[7], value, micros)
    head = string.sub(head, 1, 8) .. struct.pack('>I8', counter) .. string.sub(head, 17)
  end
  -- Somebody may have started to wait since the record was read.
  local is_awaited = string.byte(head, 6) == IN_PROGRESS and string.sub(value, 7, 7) or '\0'
  head = string.sub(head, 1, 6) .. is_awaited .. string.sub(head, 8)
  if string.byte(head, 6) == COMPLETED then
    redis.call('SET', record, seal(head) .. ARGV[5], 'PXAT', number_at(head, 41) - ARGV[1])
  else
    redis.call('SET', record, seal(head) .. ARGV[5])
  end
end
if ARGV[7] == '' then
  redis.call('ZREM', shard, record)
else
  redis.call('ZADD', shard, ARGV[7], record)
end
if ARGV[8] ~= '' then
  redis.call('RPUSH', audit, struct.pack('>I8', counter) .. ARGV[8])
  redis.call('LTRIM', audit, -1000, -1)
end
if head == '' or string.byte(head, 6) ~= IN_PROGRESS then
  tell(value, ARGV[2], record)
end
return { 1, counter }
