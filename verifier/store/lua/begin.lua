-- Begin an epoch if there is none: Redis is new, or was wiped (D-023).
-- KEYS: epoch
-- Checked with EXISTS first, because a full Redis refuses even a SET that would change nothing.
if redis.call('EXISTS', KEYS[1]) == 0 then
  local t = redis.call('TIME')
  redis.call('SET', KEYS[1], t[1] .. '.' .. string.format('%06d', t[2]))
end
