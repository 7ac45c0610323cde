-- Publish the addresses of a server's pods, if they changed. The version has the number of changes, so that a reader notices if it
-- missed one, and the time at which counting began, so that it notices if Redis was wiped.
-- KEYS: addresses, changes   ARGV: the channel, the server or '', its pods as JSON or '' for none
local began, number = string.match(redis.call('GET', KEYS[2]) or '', '^(.*)-(%d+)$')
if not began or #number > 15 then
  began, number = clock(), 0
end
if ARGV[2] ~= '' then
  if (redis.call('HGET', KEYS[1], ARGV[2]) or '') == ARGV[3] then
    return
  end
  number = number + 1
  if ARGV[3] == '' then
    redis.call('HDEL', KEYS[1], ARGV[2])
  else
    redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
  end
end
redis.call('SET', KEYS[2], string.format('%s-%d', began, number))
redis.call('PUBLISH', ARGV[1], cjson.encode({began = began, number = tonumber(number), server = ARGV[2], pods = ARGV[3]}))
