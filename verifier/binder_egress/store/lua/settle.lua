-- Delete the record of a launch if it is still the one that was read.
-- KEYS: record   ARGV: the id of its grant
-- It may be anything by now: whoever takes over a verifier may write it.
local is_json, record = pcall(cjson.decode, redis.pcall('GET', KEYS[1]))
if is_json and type(record) == 'table' and type(record.grant) == 'table' and record.grant.id == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
