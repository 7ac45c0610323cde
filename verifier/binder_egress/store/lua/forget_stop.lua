-- Delete the request to stop a pod if it is still about that pod.
-- KEYS: request   ARGV: the pod's uid
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
