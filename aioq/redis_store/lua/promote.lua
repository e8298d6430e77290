-- Queues scheduled jobs that are due.
--
-- NEEDS: base, common, shapes, runs, records, push, lanes
-- KEYS: 1 base key
-- ARGV: 1 the most jobs in this step
-- REPLY: {how many were queued, {ms until the next one is due, ms until the next tick} (-1 for none)}
local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))
local jobs, changed = load_all(due), {}
for _, id in ipairs(due) do
  local job = jobs[id]
  if job and job[STATE] == 'scheduled' then
    push(job[LANE], id, false)
    job[STATE] = false
    changed[#changed + 1], changed[#changed + 2] = id, job
  end
end
save_all(changed)
if #due > 0 then redis.call('ZREM', SCHEDULED, unpack(due)) end
return {#due, next_due()}
