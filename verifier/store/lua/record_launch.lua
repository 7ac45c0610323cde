-- Record a decision about a launch, wake the reconciler, and count the launch.
-- KEYS: record   ARGV: the record, the seconds that it lives, the key of the wake list, the server, and the announced launch
-- (`changed_blocks`, `count`) as JSON
-- Returns {blocks-changed, version, blocks}, and has written nothing then, or {recorded}.
local launch = cjson.decode(ARGV[5])
local changed = changed_blocks(launch)
if changed then
  return changed
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('RPUSH', ARGV[3], ARGV[4])
count(launch)
return {'recorded'}
