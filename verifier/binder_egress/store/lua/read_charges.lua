-- The number of charges of each network that count now.
-- KEYS: epoch, charges of each network   ARGV: window, in seconds
-- This begins an epoch too: a challenge that is priced now must be issued after its epoch began.
local now = clock()
epoch(KEYS[1], now)

local second, window = math.floor(tonumber(now)), tonumber(ARGV[1])
local numbers = {}
for k = 2, #KEYS do
  numbers[k - 1] = charges_of(KEYS[k], window, second)
end
return numbers
