-- Puts jobs that a worker holds into its held set again, from which they are missing. Does nothing if the worker
-- has lost its lease.
--
-- NEEDS: leases, held_set
-- USES: reads fetched, held, job, workers; writes held
-- KEYS: 1 base key
-- ARGV: 1 worker, then job ids
-- REPLY: nothing
local ids = {}
for i = 2, #ARGV do ids[#ids + 1] = ARGV[i] end
if not Leases.is_lost(q, ARGV[1]) then HeldSet.restore(q, ARGV[1], ids) end
return {}
