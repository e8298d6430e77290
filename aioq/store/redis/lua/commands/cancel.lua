-- Cancels jobs. A job that waits to be run ends here; for a running one its worker is notified (by the job's id, a
-- line break, and the outcome). A call that has changed anything leaves a receipt: if it is repeated because its
-- reply was lost, it gives the same reply again.
--
-- NEEDS: record, results, history, cancellation, receipts, rooms
-- USES: reads batch, body, bucket, flow, group, halted, holders, job, lanes, leftovers, limits, named, places,
--   receipt, schedule, scheduled, senders, standing, timers, tokens, unique, waiting; writes batch, blocked, body,
--   bucket, cancel, counters, flowwork, group, history, holders, idle, job, lanes, leftovers, named, outbox,
--   places, receipt, schedule, scheduled, senders, standing, stats, tasks, timers, tokens, tombstone, unique,
--   waiting, wakeable; publishes dispatched, room, waiter, worker
-- KEYS: 1 base key
-- ARGV: 1 the name of this call, 2 the outcome to store, 3 how long to keep it in ms, 4 for how many ms after its
--   send a job must be found, 5 `about` of lib/history.lua, 6 the reason, then job ids
-- REPLY: per job the state it was in, '' for no such job, or for one that was moved to another queue
local before = Receipts.found(q, ARGV[1])
if before then return before end

local outcome, ttl, reply, changed = ARGV[2], tonumber(ARGV[3]), {}, false
local limits = {tombstone = tonumber(ARGV[4])}
History.begin(q, ARGV[5], '', nil, nil, {[outcome] = ARGV[6]})
local function cancel_all()
  for i = 7, #ARGV do
    local id = ARGV[i]
    local job = Record.load(q, id)
    local state, cancelled = '', false
    if job then state, cancelled = Cancel.one(q, limits, id, job, outcome, ttl) end
    changed = changed or cancelled
    reply[i - 6] = state
  end
end
History.around(q, cancel_all)
if changed then Receipts.keep(q, ARGV[1], reply) end
Results.publish(q)
if changed then Rooms.tell(q) end
return reply
