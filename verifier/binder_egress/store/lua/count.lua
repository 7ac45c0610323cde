-- Add to counters.
-- KEYS: the hash of the counters   ARGV: each counter, followed by the number
for at = 1, #ARGV, 2 do
  add(KEYS[1], ARGV[at], ARGV[at + 1])
end
