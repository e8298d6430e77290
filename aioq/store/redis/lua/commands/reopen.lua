-- Queues dead jobs again, as if they had never been run. A call that has changed anything leaves a receipt.
--
-- NEEDS: record, operated, receipts
-- USES: reads batch, body, bucket, flow, group, halted, holders, job, lanes, limits, receipt, scheduled, standing,
--   timers, tokens, unique; writes batch, blocked, body, bucket, cut, dead, flowwork, group, holders, idle, job,
--   lanes, outbox, receipt, scheduled, standing, timers, tokens, unique, waiting, wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 the name of this call, then job ids
-- REPLY: per job the state it was in, '' for no such job, for one that was moved to another queue, and for one
--   that has failed but whose call is gone; a job was queued if that is 'failed'. For one whose unique key another
--   job holds, `held ` and that job; for one of a flow, `flow ` and the flow
local before = Receipts.found(q, ARGV[1])
if before then return before end

local reply, changed = {}, false
for i = 2, #ARGV do
  local id = ARGV[i]
  local job = Record.load(q, id)
  reply[i - 1] = job and not Record.is_elsewhere(job) and (job[Field.STATE] or 'queued') or ''
  if job and job[Field.STATE] == 'failed' then
    local opened, holder, flow = Operated.reopen(q, id, job)
    if opened then
      changed = true
    else
      reply[i - 1] = holder and 'held ' .. holder or flow and 'flow ' .. flow or ''
    end
  end
end
if changed then Receipts.keep(q, ARGV[1], reply) end
return reply
