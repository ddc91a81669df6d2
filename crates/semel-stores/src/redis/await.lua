-- Marks a record that is in progress, so that its end is published. Answers 1 if it is marked, 0
-- if there is nothing to wait for.

local value = redis.call('GET', KEYS[1])
if not intact(value) or string.byte(value, 6) ~= IN_PROGRESS then
  return 0
end
if string.byte(value, 7) ~= 1 then
  local head = string.sub(value, 1, 6) .. '\1' .. string.sub(value, 8, HEAD)
  redis.call('SETRANGE', KEYS[1], 0, seal(head))
end
return 1
