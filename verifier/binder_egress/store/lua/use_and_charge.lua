-- Mark a solution as used, charge the client's networks, and return the time at which its pass is issued, atomically. An
-- API key is charged in place of a network (D-018, D-027, D-211).
--
-- KEYS: epoch, solution, charges of each network that is charged
-- ARGV: request, a JSON object:
--   judged_by  the version of the blocks that do not refuse the client; empty: there were no blocks; null: not known
--   issued     when the challenge was issued; absent: there was none
--   key        the id of an API key; absent: there is none
--   expires    when its challenge expires; absent: the challenge does not say
--   ttl        seconds for which it is remembered: after it expires, or if it is not known when it does, from now
--   word       a random word of this call
--   window     seconds for which a charge counts
--   limits     an object for each network that is charged:
--     most       the price has risen too far if there are more charges; absent or null: no limit
--     budget     the number of charges after which no pass is issued; 0: there is no budget
-- Returns {blocks-changed, version, blocks} (D-368), {the time as text}, {key-revoked}, {replayed}, {before-epoch}, {price-risen},
-- or {budget-spent, seconds until a charge is forgotten}.
local request = cjson.decode(ARGV[1])
local now = clock()
local second = math.floor(tonumber(now))

local changed = changed_blocks(request)
if changed then
  return changed
end

-- A wiped Redis has forgotten which solutions were used: solutions of earlier challenges are refused.
local began = epoch(KEYS[1], now)
if request.issued and request.issued < began then
  return {'before-epoch'}
end

-- What Redis would have forgotten by now is refused. Both go by Redis' clock, as verifiers' clocks may differ (D-406).
local ttl = request.ttl + (request.expires and math.ceil(request.expires - tonumber(now)) or 0)
if ttl < 1 then
  return {'replayed'}
end

if request.key and redis.call('HEXISTS', PREFIX .. 'revoked', request.key) == 1 then
  return {'key-revoked'}
end

local word = redis.call('GET', KEYS[2])
if word then
  -- The same word is already stored if the answer got lost and the client tried again. The charge was made the first time.
  return {word == request.word and now or 'replayed'}
end

-- Seconds until fewer charges than the budget are left.
local function wait(n, buckets, budget)
  table.sort(buckets, function(a, b) return a.ends < b.ends end)
  for _, bucket in ipairs(buckets) do
    n = n - bucket.charges
    if n < budget then
      return bucket.ends - second
    end
  end
end

local outdated, longest = {}, 0
for i, limit in ipairs(request.limits) do
  local n, buckets, old = charges_of(KEYS[2 + i], request.window, second)
  outdated[i] = old
  if type(limit.most) == 'number' and n > limit.most then
    return {'price-risen'}
  end
  if limit.budget > 0 and n >= limit.budget then
    longest = math.max(longest, wait(n, buckets, limit.budget))
  end
end
if longest > 0 then
  return {'budget-spent', longest}
end
local width = bucket_seconds(request.window)
for i, old in ipairs(outdated) do
  -- HINCRBY comes first: a full Redis refuses it, but nothing more of a script that has written something.
  redis.call('HINCRBY', KEYS[2 + i], second - second % width, 1)
  redis.call('EXPIRE', KEYS[2 + i], request.window + width)
  if #old > 0 then
    redis.call('HDEL', KEYS[2 + i], unpack(old))
  end
end
redis.call('SET', KEYS[2], request.word, 'EX', ttl)
return {now}
