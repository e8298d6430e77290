-- What operators do to one job, which is given with its record. Commands for jobs that are named call it, and so
-- does a step of a bulk operation.
--
-- NEEDS: keys, record, lanes, hooks, finish, unique, groups, limits, batches
local Operated = {}

-- Queues a dead job again, as if it had never been run; returns whether it was: that takes its call. If its unique
-- key is held by another job, that one is returned too; and if it is a job of a flow, that flow, third.
function Operated.reopen(q, id, job)
  if not Record.whole(q, id, job[Field.JOB]) then return false end
  if not Hooks.run(q, 'reopen', id, job) then
    local lock, flow = job[Field.EXTRA].unique, job[Field.EXTRA].flow
    if flow then return false, nil, flow[1] end
    return false, (Unique.owner(q, id, lock))
  end
  Lanes.push(q, job[Field.LANE], id, false)
  if job[Field.JOB] == true then redis.call('PERSIST', Keys.body(q, id)) end
  local new = {job[Field.JOB], job[Field.SENT], job[Field.LANE], job[Field.NONCE]}
  if job[Field.EXTRA] then
    Record.widen(new, Field.EXTRA)
    new[Field.EXTRA] = job[Field.EXTRA]
  end
  if job[Field.ATTEMPT_LOG] then
    Record.widen(new, Field.ATTEMPT_LOG)
    new[Field.READY], new[Field.ATTEMPT_LOG] = q.now, job[Field.ATTEMPT_LOG]
  end
  Record.save(q, id, new)
  Finish.unlist(q, id)
  return true
end

-- Deletes a job. One that waits to be run ends first, as cancelled; one that runs stays. Returns whether it is
-- gone.
function Operated.delete(q, limits, id, job, outcome)
  if job[Field.STATE] == 'running' then return false end
  redis.call('DEL', Keys.log(q, id))
  if Record.has_ended(job) then
    Finish.forget(q, limits, id, job)
    return true
  end
  Finish.finish(q, limits, id, job, 'cancelled', outcome, 0)
  redis.call('ZREM', q.base .. Keys.SCHEDULED, id)
  return true
end

-- Moves a job that has not ended to another lane. If it is queued, it goes to the end of that lane. Its entry in
-- the lane where it was stays there, and a claim skips it: the record names another lane. Returns whether it was
-- moved.
function Operated.prioritize(q, id, job, lane)
  local before, group = job[Field.LANE], Groups.of(job)
  if Record.has_ended(job) or (before or Keys.NORMAL) == lane then return false end
  Batches.release(q, id, job)
  local is_queued = not job[Field.STATE]
  if is_queued then
    Hooks.run(q, 'back', id, job, 'prioritize', q.now)
    Lanes.push(q, lane, id, false)
  elseif group then
    Groups.change_lane(q, id, lane, group)
    Limits.wake(q, group, nil, nil, true)
  end
  -- With NONCE it is not taken for a fresh record, whose lane a claim does not check.
  Record.widen(job, Field.NONCE)
  job[Field.LANE] = lane ~= Keys.NORMAL and lane
  Record.save(q, id, job)
  if is_queued then Lanes.leave(q, before, 1) end
  return true
end

-- Moves a job that waits to be run to another time; one that may run now stays if that is past.
function Operated.reschedule(q, id, job, at)
  Batches.release(q, id, job, at <= q.now)
  if at > q.now then
    local was_queued, group = not job[Field.STATE], Groups.of(job)
    Hooks.run(q, 'back', id, job, 'reschedule', at)
    if group then job[Field.EXTRA].waits = nil end
    Lanes.schedule(q, id, at, job[Field.LANE] or nil)
    Record.widen(job, Field.STATE)
    job[Field.STATE] = 'scheduled'
    Record.save(q, id, job)
    if was_queued then Lanes.leave(q, job[Field.LANE], 1) end -- a claim skips its entry
    Limits.leave(q, id, group)
  elseif job[Field.STATE] == 'scheduled' then
    Hooks.run(q, 'back', id, job, 'reschedule', q.now)
    local waits = Limits.goes_to_group(q, id, job)
    if waits then
      Limits.arrive(q, id, job[Field.LANE] or nil, job[Field.EXTRA], false)
    else
      Lanes.push(q, job[Field.LANE], id, false)
    end
    Record.widen(job, Field.READY)
    job[Field.STATE], job[Field.READY] = waits and 'waiting', q.now
    Record.save(q, id, job)
    redis.call('ZREM', q.base .. Keys.SCHEDULED, id)
  end
end
