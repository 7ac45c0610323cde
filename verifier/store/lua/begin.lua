-- Begin an epoch if there is none.
-- KEYS: epoch
epoch(KEYS[1], clock())
