-- Deletes jobs. A job that waits to be run ends first, as cancelled; one that runs stays. A call that has changed
-- anything leaves a receipt.
--
-- NEEDS: record, results, history, operated, receipts, rooms
-- USES: reads batch, body, bucket, flow, group, halted, holders, job, lanes, leftovers, limits, named, places,
--   receipt, schedule, scheduled, senders, standing, timers, tokens, unique, waiting; writes batch, blocked, body,
--   bucket, counters, cut, dead, flowwork, group, history, holders, idle, job, lanes, leftovers, log, named,
--   outbox, places, receipt, schedule, scheduled, senders, standing, stats, tasks, timers, tokens, tombstone,
--   unique, waiting, wakeable; publishes dispatched, room, waiter
-- KEYS: 1 base key
-- ARGV: 1 the name of this call, 2 the outcome of a job that waits, 3 for how many ms after its send a job must be
--   found, 4 `about` of lib/history.lua, 5 the reason of 2, then job ids
-- REPLY: per job the state it was in, '' for no such job, or for one that was moved to another queue
local before = Receipts.found(q, ARGV[1])
if before then return before end

local limits, reply, changed = {tombstone = tonumber(ARGV[3])}, {}, false
History.begin(q, ARGV[4], '', nil, nil, {[ARGV[2]] = ARGV[5]})
local function delete_all()
  for i = 6, #ARGV do
    local id = ARGV[i]
    local job = Record.load(q, id)
    if job and Record.is_elsewhere(job) then job = nil end
    local state = job and (job[Field.STATE] or 'queued') or ''
    if job and Operated.delete(q, limits, id, job, ARGV[2]) then changed = true end
    reply[i - 5] = state
  end
end
History.around(q, delete_all)
if changed then Receipts.keep(q, ARGV[1], reply) end
Results.publish(q)
if changed then Rooms.tell(q) end
return reply
