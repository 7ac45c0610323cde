-- Count an announced launch, for all verifiers together, and return all blocks unless the caller already knows them.
-- ARGV: the keys of the blocks, of the counts, and of JupyterHub's address; Unix time in seconds; 1 if the hook did not know the
-- request, else 0; JupyterHub's address, or empty; the version of the blocks that the caller knows.
-- Returns {version}, or {version, blocks} if the version has changed (D-368).
local blocks, wiring, hub, now, without_context, hub_url, known = unpack(ARGV)
redis.call('HINCRBY', wiring, 'launches', 1)
redis.call('HINCRBY', wiring, 'without-context', without_context)
redis.call('HSETNX', wiring, 'first', now)
redis.call('HSET', wiring, 'last', now)
if hub_url ~= '' then
  redis.call('SET', hub, hub_url)
end
local found, version = all_blocks(blocks)
if version == known then
  return {version}
end
return {version, found}
