-- Enter what was saved, unless another reconciler has: what an operator removed since must not come back (D-555).
-- KEYS: restored, blocks, revoked   ARGV: the content of `restored`; the blocks, and the revoked keys, as JSON: id → text
-- Returns 1 if it was entered, else 0.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
for at = 2, 3 do
  for id, text in pairs(cjson.decode(ARGV[at])) do
    redis.call('HSETNX', KEYS[at], id, text)
  end
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
