-- Notes once more which jobs a worker holds, of those that it knows of and the note has not; nothing where it has lost its
-- lease.
--
-- NEEDS: leases, holding
-- USES: reads fetched, held, job, workers; writes held
-- KEYS: 1 base key
-- ARGV: 1 worker, then job ids
-- REPLY: nothing
local ids = {}
for i = 2, #ARGV do ids[#ids + 1] = ARGV[i] end
if not Leases.is_lost(q, ARGV[1]) then hold_again(q, ARGV[1], ids) end
return {}
