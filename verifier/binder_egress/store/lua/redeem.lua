-- Give a server one use of a pass, and record the resulting grant, atomically (D-015, D-077, D-355, D-384).
--
-- KEYS: epoch, pass, record (launch or unlock) of the server
-- ARGV: a JSON object, `redeeming.Use.for_script`: its fields, and
--   pass           the pass; ttl: seconds after it expires until nobody can present it any more
--   move_window    seconds after it was first given during which a use may move
--   moves          how many times a use may move
--   promise        the promise that came with a launch (`announce`), and its id; absent: none came
--   announced      as `changed_since` and `count` expect it; absent: it is an unlock
-- Returns {held}, {free}, {moved}, {used-up}, {lease-given}, {outranked}, {before-epoch}, {key-revoked}, {launch-changed}, or what
-- `changed_since` says.
local request = cjson.decode(ARGV[1])
local record, pass = cjson.decode(request.record), request.pass
local changed = request.announced and changed_since(request.announced)
if changed then
  return changed
end
local time = clock()
local now = tonumber(time)

assert_restored()

-- A wiped Redis has forgotten who used which pass: earlier passes are refused.
if pass.iat < epoch(KEYS[1], time) then
  return {'before-epoch'}
end

if pass.key ~= '' and redis.call('HEXISTS', PREFIX .. 'revoked', pass.key) == 1 then
  return {'key-revoked'}
end

-- A promise is kept for a launch that still waits for its pod. By now another launch may have come, or the pod.
local function is_changed()
  local text = redis.call('GET', KEYS[3])
  if not text or cjson.decode(text).grant.id ~= request.replaces then
    return true
  end
  local known = redis.call('GET', PREFIX .. 'server:' .. request.server)
  return known and cjson.decode(known).promise == request.promise.id
end

if request.replaces ~= '' and is_changed() then
  return {'launch-changed'}
end

-- An unlock that waits for this pod, and that this one must not replace: until the reconciler acts, anybody could take a larger
-- tier away by presenting something smaller. What is withdrawn, or on the pod already, does not wait (D-384).
local function is_outranked()
  local text = redis.call('GET', KEYS[3])
  local waiting = text and cjson.decode(text)
  if not waiting or waiting.uid ~= record.uid or waiting.grant.id == request.carried
      or redis.call('EXISTS', PREFIX .. 'withdrawn:' .. waiting.grant.id) == 1 then
    return false
  end
  for _, tier in ipairs(request.outranking) do
    if waiting.grant.tier == tier then
      return true
    end
  end
  return false
end

if #request.outranking > 0 and is_outranked() then
  return {'outranked'}
end

local uses = cjson.decode(redis.call('GET', KEYS[2]) or '[]')

-- From now on nobody may act on this grant, even if they read it earlier.
local function withdraw(use)
  redis.call('SET', PREFIX .. 'withdrawn:' .. use.grant, '1', 'EX', WITHDRAWN_TTL_SECONDS)
  redis.call('RPUSH', PREFIX .. 'wake', use.server)
end

local function take(slot, first, moves)
  if request.has_tier then
    moves = request.moves
  end
  uses[slot] = {server = request.server, repository = record.repository, network = request.network,
                grant = record.grant.id, carried = request.carried, first = first, moves = moves}
  -- By Redis' clock: a verifier whose clock is ahead would let it forget the uses too early (D-406).
  redis.call('SET', KEYS[2], cjson.encode(uses), 'EX', math.ceil(math.max(0, pass.exp - now)) + request.ttl)
  redis.call('SET', KEYS[3], request.record, 'EX', request.record_ttl)
  redis.call('RPUSH', PREFIX .. 'wake', request.server)
  if request.promise then
    announce(request.promise, request.server)
  end
  if request.announced then
    count(request.announced)
  end
end

for slot, use in ipairs(uses) do
  if use.server == request.server then
    -- If the pod now carries another grant than it did then, the use has given its lease, or a later decision replaced it.
    if request.carried ~= '' and request.carried ~= use.carried then
      return {'lease-given'}
    end
    -- The same grant comes twice if the answer got lost and the client tried again.
    if use.grant ~= record.grant.id then
      withdraw(use)
    end
    take(slot, use.first, use.moves)
    return {'held'}
  end
end

if #uses < pass.servers then
  take(#uses + 1, now, 0)
  return {'free'}
end

if request.has_tier then
  return {'used-up'}
end

-- A server that is up keeps its use: moving that would take egress from somebody who works there, while on most networks each
-- server that a use has left keeps its open connections. A waiting launch still has its record; a server that is gone is not
-- published.
local function holds(use)
  return is_up(use.server, function(waiting)
    -- A launch whose promise was kept once it had a pod has its use by an unlock. It waits all the same.
    return waiting.grant.id == use.grant or (request.promise and waiting.promise == request.promise.id)
  end)
end

-- The latest use first: a retry comes after the attempt that it repeats.
for slot = #uses, 1, -1 do
  local use = uses[slot]
  if use.repository == record.repository and use.network == request.network
      and now - use.first <= request.move_window and use.moves < request.moves and not holds(use) then
    withdraw(use)
    take(slot, use.first, use.moves + 1)
    return {'moved'}
  end
end
return {'used-up'}
