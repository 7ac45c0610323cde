-- Count a solution from a client network that a provider rejected.
-- KEYS: rejected   ARGV: seconds after the first one until all are forgotten
if redis.call('INCR', KEYS[1]) == 1 then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
end
