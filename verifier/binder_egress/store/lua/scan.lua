-- Names of keys, without those that are longer than they can be.
-- ARGV: cursor, pattern, the most bytes of a name   Returns the next cursor, and the names.
local cursor, names = unpack(redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', 1000))
local short = {}
for _, name in ipairs(names) do
  if #name <= tonumber(ARGV[3]) then
    table.insert(short, name)
  end
end
return {cursor, short}
