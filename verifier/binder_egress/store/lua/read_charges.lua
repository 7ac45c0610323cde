-- The number of charges of each network that count now.
-- KEYS: epoch, charges of each network   ARGV: window, in seconds
-- This begins an epoch too: a challenge that is priced now must be issued after its epoch began.
local now = clock()
epoch(KEYS[1], now)

local second, window = math.floor(tonumber(now)), tonumber(ARGV[1])
local numbers = {}
for k = 2, #KEYS do
  local n = 0
  local fields = redis.call('HGETALL', KEYS[k])
  for i = 1, #fields, 2 do
    if bucket_end(fields[i], window) > second then
      n = n + tonumber(fields[i + 1])
    end
  end
  numbers[k - 1] = n
end
return numbers
