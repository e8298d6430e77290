-- Moves jobs to another lane. A queued job goes to its end.
--
-- NEEDS: record, operated
-- USES: reads batch, bucket, flow, group, halted, holders, job, lanes, limits, scheduled, standing, timers,
--   tokens, unique; writes batch, blocked, bucket, flowwork, group, holders, idle, job, lanes, leftovers, outbox,
--   scheduled, standing, timers, tokens, unique, waiting, wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 the lane, then job ids
-- REPLY: per job the state it was in, '' for no such job, or for one that was moved to another queue; one that has
--   ended stays as it is
local lane, reply = ARGV[1], {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local job = Record.load(q, id)
  if job and Record.is_elsewhere(job) then job = nil end
  if job then Operated.prioritize(q, id, job, lane) end
  reply[i - 1] = job and (job[Field.STATE] or 'queued') or ''
end
return reply
