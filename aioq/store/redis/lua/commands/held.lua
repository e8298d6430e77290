-- Reads the held set of a worker in several calls: each continues where the one before has ended. What is in the
-- set during all of these calls is returned at least once.
--
-- NEEDS: call, keys
-- USES: reads held
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 where to continue (0 to begin), 3 about how many to read
-- REPLY: {where the next call continues ('0' if nothing is left), and the ids of the jobs}
local found = redis.pcall('SSCAN', Keys.held(q, ARGV[1]), ARGV[2], 'COUNT', ARGV[3])
if is_unreadable(found) then return {'0'} end
return {found[1], unpack(found[2])}
