-- Finds the job that holds a unique key.
--
-- NEEDS: unique
-- USES: reads job, unique
-- KEYS: 1 base key
-- ARGV: 1 the key
-- REPLY: the job, '' for none
local owner, _, is_timed = Unique.noted(q, ARGV[1])
return owner and (is_timed or Unique.is_alive(q, ARGV[1], owner)) and owner or ''
