-- Take the oldest texts of a list, one by one: together they may be too much.
-- KEYS: list   ARGV: the most texts, the most bytes of each
-- Returns the texts, without those that are longer, and 1 if others are left, else 0.
local texts = {}
for _ = 1, ARGV[1] do
  local text = redis.call('LPOP', KEYS[1])
  if not text then
    break
  end
  if #text <= tonumber(ARGV[2]) then
    table.insert(texts, text)
  end
end
return {texts, redis.call('EXISTS', KEYS[1])}
