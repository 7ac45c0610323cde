-- Record a decision about a launch, wake the reconciler, and count the launch.
-- KEYS: record
-- ARGV: request, a JSON object:
--   record, ttl    the content of the record, and the seconds that it lives
--   server         the server
--   announced      the launch (`changed_since`, `count`)
--   promise        the promise that came with it (`announce`), with its id and `kept`: whether the launch was decided by the pass
--                  that keeps it, or by a rule that asks for none; absent: none came
-- Returns what `changed_since` says, or {promise-kept}, and has written nothing then, or {recorded}.
local request = cjson.decode(ARGV[1])
local promise = request.promise
local changed = changed_since(request.announced)
if changed then
  return changed
end
if promise and not promise.kept and redis.call('HEXISTS', promise.key, 'pass') == 1 then
  return {'promise-kept'}
end
redis.call('SET', KEYS[1], request.record, 'EX', request.ttl)
redis.call('RPUSH', PREFIX .. 'wake', request.server)
if promise then
  -- A server that is up keeps its promise, as it keeps its use of a pass (D-015).
  local holder = redis.call('HGET', promise.key, 'server')
  local function waits(record) return record.promise == promise.id end
  if not holder or holder == request.server or not is_up(holder, waits) then
    announce(promise, request.server)
  end
end
count(request.announced)
return {'recorded'}
