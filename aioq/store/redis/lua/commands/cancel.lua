-- Cancels jobs. A job that waits to be run ends here; for a running one its worker is notified (by the job's id, a
-- line break, and the outcome). A call that has changed anything leaves a receipt: if it is repeated because its
-- reply was lost, it gives the same reply again.
--
-- NEEDS: record, results, cancellation, receipts
-- USES: reads job, receipt, schedule, scheduled, standing; writes body, cancel, idle, job, lanes, outbox, receipt,
--   schedule, scheduled, standing, timers, tombstone, wakeable; publishes dispatched, waiter, worker
-- KEYS: 1 base key
-- ARGV: 1 the name of this call, 2 the outcome to store, 3 how long to keep it in ms, 4 for how many ms after its
--   send a job must be found, then job ids
-- REPLY: per job the state it was in, '' for no such job, or for one that was moved to another queue
local before = Receipts.found(q, ARGV[1])
if before then return before end

local outcome, ttl, reply, changed = ARGV[2], tonumber(ARGV[3]), {}, false
local limits = {tombstone = tonumber(ARGV[4])}
for i = 5, #ARGV do
  local id = ARGV[i]
  local job = load(q, id)
  local state, cancelled = '', false
  if job then state, cancelled = Cancel.one(q, limits, id, job, outcome, ttl) end
  changed = changed or cancelled
  reply[i - 4] = state
end
if changed then Receipts.keep(q, ARGV[1], reply) end
Results.publish(q)
return reply
