-- Read a field of the oldest entries of a stream, one by one: together they may be too much.
-- ARGV: the stream, the field, the most entries, the most bytes of a field
-- Returns each id and its field, as far as they fit into MAX_ANSWER_BYTES: false if there is none, empty if it is longer.
local rows, left, from = {}, MAX_ANSWER_BYTES, '-'
for _ = 1, ARGV[3] do
  local entry = redis.call('XRANGE', ARGV[1], from, '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  local text = false
  for at = 1, #entry[2], 2 do
    text = entry[2][at] == ARGV[2] and entry[2][at + 1] or text
  end
  if text and #text > tonumber(ARGV[4]) then
    text = ''
  end
  left = left - #(text or '')
  if left < 0 and #rows > 0 then
    break
  end
  table.insert(rows, {entry[1], text})
  from = '(' .. entry[1]
end
return rows
