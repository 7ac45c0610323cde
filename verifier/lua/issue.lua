-- Mark a solution as used and tell the time at which its pass is issued, atomically.
-- KEYS: epoch, solution
-- ARGV: when the challenge was issued; seconds until the solution could not be presented anyway; a random word of this call
-- Returns the time as text, `replayed`, or `before-epoch`.
local t = redis.call('TIME')
local now = t[1] .. '.' .. string.format('%06d', t[2])

-- A wiped Redis has forgotten which solutions were used: those of challenges from before are refused.
redis.call('SET', KEYS[1], now, 'NX')
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[1])) then
  return 'before-epoch'
end
-- The same word is there already when the answer got lost on its way and the client asked again.
if not redis.call('SET', KEYS[2], ARGV[3], 'NX', 'EX', ARGV[2]) and redis.call('GET', KEYS[2]) ~= ARGV[3] then
  return 'replayed'
end
return now
