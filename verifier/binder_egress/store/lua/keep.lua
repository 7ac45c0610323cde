-- Keep a promise with a pass. A pass keeps one promise: otherwise one solution could fill Redis with promises.
-- KEYS: promise (a hash), the promise that the pass keeps
-- ARGV: the pass as JSON, seconds for which the promise waits for its launch, seconds for which the pass can be presented, the
--       tiers (a JSON array) whose pass stays, because the tier of this one is not larger
-- Returns {used-up} if the pass keeps another promise, or {kept, the server that was announced with the promise, or false}.
local kept = redis.call('GET', KEYS[2])
if kept and kept ~= KEYS[1] then
  return {'used-up'}
end
redis.call('SET', KEYS[2], KEYS[1], 'EX', ARGV[3])

-- Whether a pass for such a tier keeps the promise already. One that cannot be read is none.
local function is_outranked()
  local read, earlier = pcall(cjson.decode, redis.call('HGET', KEYS[1], 'pass') or '')
  for _, tier in ipairs(cjson.decode(ARGV[4])) do
    if read and type(earlier) == 'table' and earlier.tier == tier then
      return true
    end
  end
  return false
end

if not is_outranked() then
  redis.call('HSET', KEYS[1], 'pass', ARGV[1])
end
local server = redis.call('HGET', KEYS[1], 'server')
if not server then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return {'kept', server and #server <= MAX_TEXT_BYTES and server}
