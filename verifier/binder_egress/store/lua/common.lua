-- What several scripts use. `base.py` puts it in front of each of them, after constants of `keys.py`: `PREFIX`, `MAX_…_BYTES`, ….

-- Redis' time: Unix seconds as text, to the microsecond.
local function clock()
  local t = redis.call('TIME')
  return t[1] .. '.' .. string.format('%06d', t[2])
end

-- The time at which the epoch began. It begins now, as `clock` says it, if there is none: Redis is new, or was wiped (D-017).
-- The key is read first, because a full Redis refuses even a SET that would change nothing.
local function epoch(key, now)
  local began = tonumber(redis.pcall('GET', key) or nil)
  if not (began and began <= tonumber(now)) then -- also if it is no number, or no key of this type
    began = tonumber(now)
    redis.call('SET', key, now)
  end
  return began
end

-- The fields of a hash, each with its content, as far as they fit into `most` bytes; and whether all do. What is longer than
-- `longest` bytes is empty, and a field with such a name is left out.
local function fields_of(key, longest, most)
  local fields, left = {}, most
  local stored = redis.call('HGETALL', key)
  for at = 1, #stored, 2 do
    if #stored[at] <= longest then
      local content = #stored[at + 1] <= longest and stored[at + 1] or ''
      left = left - #stored[at] - #content
      if left < 0 then
        return fields, false
      end
      table.insert(fields, stored[at])
      table.insert(fields, content)
    end
  end
  return fields, true
end

-- An error in a Redis that is new or was lost, until the reconciler has entered the blocks and revoked keys that it saved (D-555).
local function assert_restored()
  assert(redis.call('EXISTS', PREFIX .. 'restored') == 1, 'the blocks have not been restored yet')
end

-- All blocks, as HGETALL returns them, and their version, which no other blocks have; without blocks it is empty (D-368). Without
-- some of them, a server that an operator blocked could get egress: too many are an error.
local function all_blocks()
  assert_restored()
  local blocks, fit = fields_of(PREFIX .. 'blocks', MAX_TEXT_BYTES, MAX_BLOCKS_BYTES)
  assert(fit, 'there are too many blocks')
  return blocks, #blocks > 0 and redis.sha1hex(table.concat(blocks, '\n')) or ''
end

-- {blocks-changed, version, blocks} if there are other blocks by now than those by which a client was judged, else nil (D-368).
-- judged: judged_by, the version of the blocks by which they do not refuse the client, null if the verifier knows none.
local function changed_blocks(judged)
  local blocks, version = all_blocks()
  if version ~= judged.judged_by then
    return {'blocks-changed', version, blocks}
  end
end

-- Why a launch must not be written down as it was decided, or nil: what `changed_blocks` says, or {launch-decided} if it is
-- announced late, and its server has been announced by now, or has a tier, or is about to get one (D-520).
-- launch: what `changed_blocks` expects; server; is_late.
local function changed_since(launch)
  if launch.is_late then
    local text = redis.call('GET', PREFIX .. 'server:' .. launch.server)
    local known = text and cjson.decode(text)
    if known and (known.announced or known.tier ~= 'unverified')
        or redis.call('EXISTS', PREFIX .. 'launch:' .. launch.server, PREFIX .. 'unlock:' .. launch.server) > 0 then
      return {'launch-decided'}
    end
  end
  return changed_blocks(launch)
end

-- Add to a field of a hash. A field that is no number begins again.
local function add(hash, field, number)
  local answer = redis.pcall('HINCRBY', hash, field, number)
  if type(answer) == 'table' then
    redis.call('HSET', hash, field, number)
  end
end

-- Count a launch that BinderHub's hook announced, for all verifiers together (D-367).
-- launch: at, Unix time in seconds; context, whether the hook knew the request; hub_url, JupyterHub's address, or empty.
local function count(launch)
  local wiring = PREFIX .. 'wiring'
  add(wiring, 'launches', 1)
  add(wiring, 'without-context', launch.context and 0 or 1)
  if redis.call('HSETNX', wiring, 'first', launch.at) == 1 then
    -- The pods that nobody had announced until then are from before the wiring.
    local before = redis.pcall('HGET', PREFIX .. 'counters', 'pods-without-launch-record')
    redis.call('HSET', wiring, 'before', type(before) == 'string' and before or 0)
  end
  redis.call('HSET', wiring, 'last', launch.at)
  if launch.hub_url ~= '' then
    redis.call('SET', PREFIX .. 'hub', launch.hub_url)
  end
end

-- Charges are in twelve buckets and the one that is being filled, a field each: the second in which it began, and its number of
-- charges. A bucket counts until its last charge is older than the window: no charge is dropped early or kept more than a twelfth
-- too long (D-025).
local function bucket_seconds(window)
  return math.ceil(window / 12)
end

-- The second from which on a bucket does not count any more.
local function bucket_end(began, window)
  return tonumber(began) + bucket_seconds(window) + window
end

-- The charges of a network that count at a second: their number, the buckets, each with its end, and the buckets that are over.
local function charges_of(key, window, second)
  local number, buckets, old = 0, {}, {}
  local fields = redis.call('HGETALL', key)
  for at = 1, #fields, 2 do
    local ends, charges = bucket_end(fields[at], window), tonumber(fields[at + 1])
    if ends > second then
      number = number + charges
      table.insert(buckets, {ends = ends, charges = charges})
    else
      table.insert(old, fields[at])
    end
  end
  return number, buckets, old
end

-- Whether a server is up: its launch no longer waits, and the reconciler published it.
-- waits: a function that says whether a record that waits for the server is that launch.
local function is_up(server, waits)
  local record = redis.call('GET', PREFIX .. 'launch:' .. server)
  if record and waits(cjson.decode(record)) then
    return false
  end
  return redis.call('EXISTS', PREFIX .. 'server:' .. server) == 1
end

-- Remember which server was announced with a promise. promise: key, ttl in seconds.
local function announce(promise, server)
  redis.call('HSET', promise.key, 'server', server)
  redis.call('EXPIRE', promise.key, promise.ttl)
end
