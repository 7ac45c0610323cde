-- Count a solution of a client network that a provider rejected.
-- KEYS: rejected   ARGV: seconds after the first of them until they are forgotten
if redis.call('INCR', KEYS[1]) == 1 then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
end
