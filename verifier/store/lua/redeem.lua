-- Give a server one use of a pass, and write down the grant that follows from it, atomically (D-015, D-077, D-355).
--
-- KEYS: epoch, pass, record (launch or unlock) of the server
-- ARGV: request, a JSON object:
--   iat            when the pass was issued
--   key            the id of the API key that it was issued for; empty: there is none
--   ttl            seconds until nobody can present the pass any more
--   servers        how many servers may hold a use
--   move_window    seconds after its first use in which a use may move
--   moves          how often a use may move
--   renewal        whether the server has this tier, or a smaller one: then no use moves to it, nor away from it
--   carried        the id of the grant that the pod carries, perhaps one whose lease is over; empty: it carries none
--   server, repository, network, grant (id): who asks
--   record         what to write into the record; record_ttl: seconds it lives
--   launch, known  prefixes of the keys of launches that wait, and of servers that the reconciler published
--   withdrawn      prefix of the keys that withdraw a grant; withdrawn_ttl: seconds they live
--   wake, revoked  the keys of the wake list and of the hash of revoked API keys
-- Returns: held, free, moved, used-up, lease-given, before-epoch or key-revoked.
local request = cjson.decode(ARGV[1])
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000

-- A wiped Redis has forgotten who used what: passes from before are refused.
local epoch = redis.call('GET', KEYS[1])
if not epoch then
  epoch = t[1] .. '.' .. string.format('%06d', t[2])
  redis.call('SET', KEYS[1], epoch)
end
if request.iat < tonumber(epoch) then
  return 'before-epoch'
end

if request.key ~= '' and redis.call('HEXISTS', request.revoked, request.key) == 1 then
  return 'key-revoked'
end

local uses = cjson.decode(redis.call('GET', KEYS[2]) or '[]')

-- Grants that nobody may act on any more, even if they were read before this.
local function withdraw(use)
  redis.call('SET', request.withdrawn .. use.grant, '1', 'EX', request.withdrawn_ttl)
  redis.call('RPUSH', request.wake, use.server)
end

local function take(slot, first, moves)
  if request.renewal then
    moves = request.moves
  end
  uses[slot] = {server = request.server, repository = request.repository, network = request.network,
                grant = request.grant, carried = request.carried, first = first, moves = moves}
  redis.call('SET', KEYS[2], cjson.encode(uses), 'EX', request.ttl)
  redis.call('SET', KEYS[3], request.record, 'EX', request.record_ttl)
  redis.call('RPUSH', request.wake, request.server)
end

for slot, use in ipairs(uses) do
  if use.server == request.server then
    -- Once the pod carries something else than it did then, the use has given its lease, or a later decision took its place.
    if request.carried ~= '' and request.carried ~= use.carried then
      return 'lease-given'
    end
    -- The same grant comes twice when the answer got lost on its way and the client asked again.
    if use.grant ~= request.grant then
      withdraw(use)
    end
    take(slot, use.first, use.moves)
    return 'held'
  end
end

if #uses < request.servers then
  take(#uses + 1, now, 0)
  return 'free'
end

if request.renewal then
  return 'used-up'
end

-- A server that is up keeps its use: with it would go the egress of somebody who works there, and each server that a use has
-- left keeps its open connections on most networks. A launch that waits still has its record; a server that is gone is not
-- published.
local function is_up(use)
  local launch = redis.call('GET', request.launch .. use.server)
  if launch and cjson.decode(launch).grant.id == use.grant then
    return false
  end
  return redis.call('EXISTS', request.known .. use.server) == 1
end

-- The latest use first: a retry follows the attempt that it repeats.
for slot = #uses, 1, -1 do
  local use = uses[slot]
  if use.repository == request.repository and use.network == request.network
      and now - use.first <= request.move_window and use.moves < request.moves and not is_up(use) then
    withdraw(use)
    take(slot, use.first, use.moves + 1)
    return 'moved'
  end
end
return 'used-up'
