-- Queues dead jobs again, as if they had never been run.
--
-- NEEDS: keys, record, lanes, hooks
-- USES: reads body, job, scheduled, standing; writes body, dead, idle, job, lanes, outbox, scheduled, standing, timers,
--   wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: job ids
-- REPLY: per job the state it was in, '' for no such job; a job was queued only if it had failed and still has its
-- call
local reply = {}
for i = 1, #ARGV do
  local id = ARGV[i]
  local job = load(q, id)
  if job and job[STATE] == 'failed' and whole(q, id, job[JOB]) then
    run_hooks(q, 'reopen', id, job)
    Lanes.push(q, job[LANE], id, false)
    if job[JOB] == true then redis.call('PERSIST', body_key(q, id)) end
    local new = {job[JOB], job[SENT], job[LANE], job[NONCE]}
    if job[EXTRA] then
      widen(new, EXTRA)
      new[EXTRA] = job[EXTRA]
    end
    save(q, id, new)
    redis.call('ZREM', q.base .. DEAD, id)
  end
  reply[i] = job and not is_elsewhere(job) and (job[STATE] or 'queued') or ''
end
return reply
