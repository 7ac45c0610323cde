-- The number of charges of each network that count now.
-- KEYS: epoch, charges of each network   ARGV: window, in seconds
-- This begins an epoch too, as begin.lua does: a challenge that is priced now must be issued after its epoch began.
local t = redis.call('TIME')
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[1], t[1] .. '.' .. string.format('%06d', t[2]))
end

-- Twelve buckets and the one that is being filled, a field each: the second in which it began, and its number of charges. A bucket
-- counts until its last charge is older than the window: no charge is dropped early or kept more than a twelfth too long (D-025).
local window = tonumber(ARGV[1])
local numbers = {}
for k = 2, #KEYS do
  local n = 0
  local found = redis.call('HGETALL', KEYS[k])
  for i = 1, #found, 2 do
    if tonumber(found[i]) + math.ceil(window / 12) + window > tonumber(t[1]) then
      n = n + tonumber(found[i + 1])
    end
  end
  numbers[k - 1] = n
end
return numbers
