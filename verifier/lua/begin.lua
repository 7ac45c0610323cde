-- Begin an epoch if there is none: Redis is new, or was wiped.
-- KEYS: epoch
local t = redis.call('TIME')
redis.call('SET', KEYS[1], t[1] .. '.' .. string.format('%06d', t[2]), 'NX')
