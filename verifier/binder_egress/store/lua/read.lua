-- Read texts, without those that are longer than they can be, and all blocks.
-- ARGV: the key of the hash of blocks, or empty; then for each text its key, and its most bytes
-- Returns the texts as far as they fit into MAX_ANSWER_BYTES, one at least: false if there is none, empty if it is longer or of
-- another type; and the blocks.
local texts, left = {}, MAX_ANSWER_BYTES
for at = 2, #ARGV, 2 do
  local text = redis.pcall('GETRANGE', ARGV[at], 0, ARGV[at + 1])
  if type(text) == 'table' and not string.find(text.err, 'WRONGTYPE') then
    return text
  end
  if type(text) == 'table' or #text > tonumber(ARGV[at + 1]) then
    text = ''
  elseif text == '' then
    text = false
  end
  left = left - #(text or '')
  if left < 0 and #texts > 0 then
    break
  end
  table.insert(texts, text)
end
return {texts, ARGV[1] ~= '' and (all_blocks(ARGV[1])) or {}}
