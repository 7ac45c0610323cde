-- Mark a solution as used and tell the time at which its pass is issued, atomically.
-- KEYS: epoch, solution   ARGV: seconds until the solution could not be presented anyway
-- Returns the time as text, or false if the solution was used before.
local t = redis.call('TIME')
local now = t[1] .. '.' .. string.format('%06d', t[2])
redis.call('SET', KEYS[1], now, 'NX')
if not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[1]) then
  return false
end
return now
