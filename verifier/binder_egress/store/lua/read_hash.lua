-- The fields of a hash, as `fields_of` returns them.
-- ARGV: its key, the most bytes of a field
return (fields_of(ARGV[1], tonumber(ARGV[2]), MAX_ANSWER_BYTES))
