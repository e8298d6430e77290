-- Looks after jobs that were moved here from another queue, whose record there leads here still. If a job has
-- ended, that queue is notified again: the entry for it may have been evicted or deleted by hand, or a failover
-- may have lost what was applied.
--
-- NEEDS: keys, record, outbox
-- USES: reads job, scheduled, standing; writes body, idle, job, lanes, outbox, scheduled, standing, timers,
--   tokens, wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 the other queue, then two per job: its id, and its send (`Outbox.send_of`)
-- REPLY: 1 if the outbox of this queue has entries for the other one now, else 0; then the ids of the jobs that
--   have no record here
local source, reply = ARGV[1], {0}

-- Lets the record of an ended job stay until the other queue was notified.
local function keep(id, job)
  local origins = Record.origins_of(job) or {q.now + math.max(0, redis.call('PTTL', Keys.job(q, id)))}
  for i = 2, #origins do
    if origins[i] == source then return end
  end
  origins[#origins + 1] = source
  Record.widen(job, Field.EXTRA)
  job[Field.EXTRA] = job[Field.EXTRA] or {}
  job[Field.EXTRA].origins = origins
  if job[Field.JOB] == true or job[Field.OUTCOME] == true then redis.call('PERSIST', Keys.body(q, id)) end
  Record.save(q, id, job)
end

for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  local job = Record.load(q, id)
  local is_unread = not job and redis.call('EXISTS', Keys.job(q, id)) == 1
  local is_there = is_unread or job and Outbox.send_of(job) == ARGV[i + 1]
  if not is_there then
    reply[#reply + 1] = id
  elseif job and Record.has_ended(job) then
    Outbox.add(q, source, 'ended', id)
    keep(id, job)
    reply[1] = 1
  end
end
return reply
