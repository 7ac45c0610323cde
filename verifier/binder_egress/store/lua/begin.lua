-- Begin an epoch if there is none, and remove keys of a wrong type: reading one is an error, and most are never replaced (D-415).
-- KEYS: epoch   ARGV: each key, followed by the type that it must have
epoch(KEYS[1], clock())
for at = 1, #ARGV, 2 do
  -- Without the right to TYPE, as in a Redis of an earlier version of the chart, nothing is removed.
  local type = redis.pcall('TYPE', ARGV[at]).ok
  if type and type ~= 'none' and type ~= ARGV[at + 1] then
    redis.call('EXPIRE', ARGV[at], 0) -- The verifier may not use DEL.
  end
end
