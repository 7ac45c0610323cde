-- Delete the record of a launch if it is still the one that was read.
-- KEYS: record   ARGV: the id of its grant
local record = redis.call('GET', KEYS[1])
if record and cjson.decode(record).grant.id == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
