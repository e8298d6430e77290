-- Gives a unique key back for the job that holds it, which goes on without. The job that follows it holds the key
-- then, and is queued. The call leaves a receipt: carried out twice, it would take the key from that job too.
--
-- NEEDS: unique, hooks, receipts
-- USES: reads batch, bucket, flow, group, halted, holders, job, lanes, limits, receipt, scheduled, standing,
--   timers, tokens, unique; writes batch, blocked, bucket, flowwork, group, holders, idle, job, lanes, outbox,
--   receipt, scheduled, standing, timers, tokens, unique, waiting, wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 the name of this call, 2 the key
-- REPLY: the job that held it, '' for none
local before = Receipts.found(q, ARGV[1])
if before then return before[1] end

local owner, following, is_timed = Unique.noted(q, ARGV[2])
if not owner then return '' end
local held = is_timed or Unique.is_alive(q, ARGV[2], owner)
Hooks.let_follow(q, ARGV[2], following)
local reply = held and owner or ''
Receipts.keep(q, ARGV[1], {reply})
return reply
