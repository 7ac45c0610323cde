-- Add a block, if all of them fit into MAX_BLOCKS_BYTES: otherwise nothing would be granted any more (D-517).
-- ARGV: the command, HSET or HSETNX; the block's id, and its text
local bytes = #ARGV[2] + #ARGV[3]
for _, text in ipairs((all_blocks())) do
  bytes = bytes + #text
end
assert(bytes <= MAX_BLOCKS_BYTES, 'there are too many blocks')
redis.call(ARGV[1], PREFIX .. 'blocks', ARGV[2], ARGV[3])
