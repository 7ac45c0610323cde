-- Record a decision about a launch, and wake the reconciler.
-- KEYS: record   ARGV: the record, the seconds that it lives, the key of the wake list, the server
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('RPUSH', ARGV[3], ARGV[4])
