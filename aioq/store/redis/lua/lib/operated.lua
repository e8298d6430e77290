-- What operators do to one job, which is given with its record. Commands for jobs that are named call it, and so does
-- a step of a bulk operation.
--
-- NEEDS: keys, record, lanes, hooks, finish
local Operated = {}

-- Queues a dead job again, as if it had never been run; returns whether it was: that takes its call.
function Operated.reopen(q, id, job)
  if not whole(q, id, job[JOB]) then return false end
  run_hooks(q, 'reopen', id, job)
  Lanes.push(q, job[LANE], id, false)
  if job[JOB] == true then redis.call('PERSIST', body_key(q, id)) end
  local new = {job[JOB], job[SENT], job[LANE], job[NONCE]}
  if job[EXTRA] then
    widen(new, EXTRA)
    new[EXTRA] = job[EXTRA]
  end
  if job[ATTEMPT_LOG] then
    widen(new, ATTEMPT_LOG)
    new[READY], new[ATTEMPT_LOG] = q.now, job[ATTEMPT_LOG]
  end
  save(q, id, new)
  Finish.unlist(q, id)
  return true
end

-- Deletes a job. One that waits to be run ends first, as cancelled; one that runs stays. Returns whether it is gone.
function Operated.delete(q, limits, id, job, outcome)
  if job[STATE] == 'running' then return false end
  redis.call('DEL', log_key(q, id))
  if has_ended(job) then
    Finish.forget(q, limits, id, job)
    return true
  end
  -- Its entry stays in the lane; a claim skips it.
  Finish.finish(q, limits, id, job, 'cancelled', outcome, 0)
  redis.call('ZREM', q.base .. SCHEDULED, id)
  return true
end

-- Moves a job that has not ended to another lane. If it is queued, it goes to the end of that lane. Its entry in the
-- lane where it was stays there, and a claim skips it: the record names another lane. Returns whether it was moved.
function Operated.prioritize(q, id, job, lane)
  if has_ended(job) or (job[LANE] or NORMAL) == lane then return false end
  if not job[STATE] then
    run_hooks(q, 'back', id, job, 'prioritize', q.now)
    Lanes.push(q, lane, id, false)
  end
  -- With NONCE it is not taken for a fresh record, whose lane a claim does not check.
  widen(job, NONCE)
  job[LANE] = lane ~= NORMAL and lane
  save(q, id, job)
  return true
end

-- Moves a queued or a scheduled job to another time; a queued one stays if that is past.
function Operated.reschedule(q, id, job, at)
  if at > q.now then
    -- The entry of a queued job stays in its lane; a claim skips it.
    run_hooks(q, 'back', id, job, 'reschedule', at)
    Lanes.schedule(q, id, at, job[LANE] or nil)
    widen(job, STATE)
    job[STATE] = 'scheduled'
    save(q, id, job)
  elseif job[STATE] == 'scheduled' then
    run_hooks(q, 'back', id, job, 'reschedule', q.now)
    Lanes.push(q, job[LANE], id, false)
    widen(job, READY)
    job[STATE], job[READY] = false, q.now
    save(q, id, job)
    redis.call('ZREM', q.base .. SCHEDULED, id)
  end
end
