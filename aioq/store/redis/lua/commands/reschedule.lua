-- Moves jobs that wait to be run to another time.
--
-- NEEDS: record, operated, groups, batches
-- USES: reads batch, bucket, flow, group, halted, holders, job, lanes, limits, scheduled, standing, timers,
--   tokens, unique; writes batch, blocked, bucket, flowwork, group, holders, idle, job, lanes, leftovers, limits,
--   outbox, scheduled, standing, timers, tokens, unique, waiting, wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 due: '' for at once, '+N' for N ms from now, or the time in ms since the epoch, then job ids
-- REPLY: per job the state it was in, '' for no such job, or for one that was moved to another queue; only a
--   queued or a scheduled one was moved, and one that waits in a group
local at, reply = q.now, {}
if ARGV[1] ~= '' then
  at = tonumber(ARGV[1])
  if string.sub(ARGV[1], 1, 1) == '+' then at = q.now + at end
end
for i = 2, #ARGV do
  local id = ARGV[i]
  local job = Record.load(q, id)
  if job then Batches.release(q, id, job, at <= q.now) end
  local state = job and (job[Field.STATE] or 'queued') or ''
  local is_waiting = state == 'queued' or state == 'scheduled' or job and Groups.of(job)
  if is_waiting then Operated.reschedule(q, id, job, at) end
  reply[i - 1] = job and Record.is_elsewhere(job) and '' or state
end
return reply
