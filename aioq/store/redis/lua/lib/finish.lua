-- Ends jobs, deletes the records of ended jobs, and gives running jobs back to their lane. Each of these calls the
-- hooks of the job.
--
-- `limits` has `tombstone`: for how long after its send a job must be found, in ms. Callers that bury jobs also
-- set `dead_ttl`, in ms, and `dead_limit`.
--
-- NEEDS: keys, record_text_write, record, results, lanes, hooks, overlap, history, flows
local Finish = {}
Finish.TRIMMED = 200

-- Whether the record of an ended job must not expire yet.
function Finish.stays(q, job) return Record.origins_of(job) or Flows.needs(q, job) end

-- Stores the record of an ended job for `ttl` ms, or deletes it at once if `ttl` is not positive. A tombstone is
-- left if the record goes while the job's send may still be repeated. A dead job may go earlier than after `ttl`:
-- after job[TTL] a new send may use its id. The record stays as long as other queues must be notified of the end,
-- and as long as a flow needs it.
function Finish.keep(q, limits, id, job, ttl)
  if math.min(ttl, job[Field.TTL] or ttl) < limits.tombstone then
    local left = job[Field.SENT] + limits.tombstone - q.now
    if left > 0 and math.min(ttl, job[Field.TTL] or ttl) < left then
      redis.call('SET', Keys.tombstone(q, job[Field.NONCE] or id), '', 'PX', left)
    end
  end
  if Finish.stays(q, job) then
    -- outbox_remove.lua calls this again, and flow_apply.lua lets it expire.
    redis.call('SET', Keys.job(q, id), cmsgpack.pack(job))
  elseif ttl <= 0 then
    redis.call('DEL', Keys.job(q, id))
  else
    redis.call('SET', Keys.job(q, id), cmsgpack.pack(job), 'PX', ttl)
  end
end

-- Lets the body key of an ended job expire with the record, or deletes it at once if the record does not need it.
function Finish.expire_body(q, id, job, ttl)
  local stays = Finish.stays(q, job)
  if (ttl > 0 or stays) and (job[Field.JOB] or job[Field.OUTCOME] == true) then
    if not stays then redis.call('PEXPIRE', Keys.body(q, id), ttl) end
  else
    redis.call('DEL', Keys.body(q, id))
  end
end

-- Ends a job that has not ended. The outcome is stored, or dropped at once if `ttl` is 0. The waiting processes
-- are notified at the end of the call (`Results.publish`). A failed job keeps its call, because it may be queued
-- again.
--
-- `how` may have: `keeps_call`, if any other job keeps its call too; `at`, the job's position among those that a
-- worker settles; `is_unnoted`, if the history is not to have this end.
function Finish.finish(q, limits, id, job, state, outcome, ttl, how)
  how = how or {}
  Hooks.run(q, 'finish', id, job, ttl, how.at)
  local task = q.history and not how.at and History.task_of(q, id, job)
  if string.find(id, '@', 1, true) then Overlap.let_next(q, id) end
  Results.notify(q, id, job[Field.WAITERS], outcome, ttl > 0)
  local was_queued = not job[Field.STATE]
  local has_body, is_kept = job[Field.JOB] == true, ttl > 0 or Flows.needs(q, job)
  local is_large = state == 'succeeded' and #outcome > BODY_LIMIT and is_kept
  if is_large and Finish.stays(q, job) then
    redis.call('SET', Keys.body(q, id), outcome)
  elseif is_large then
    redis.call('SET', Keys.body(q, id), outcome, 'PX', ttl)
  end
  Record.widen(job, Field.ENDED)
  job[Field.STATE], job[Field.OUTCOME], job[Field.ENDED] = state, is_large or outcome, q.now
  if job[Field.WAITERS] then job[Field.WAITERS] = false end
  if state ~= 'failed' and not how.keeps_call then job[Field.JOB] = false end
  Finish.keep(q, limits, id, job, ttl)
  if not how.is_unnoted then History.note(q, id, string.sub(state, 1, 1), how.at, outcome, task) end
  -- Not first: a server that is out of memory refuses only a script's first write, and would accept this deletion.
  if has_body then Finish.expire_body(q, id, job, ttl) end
  Hooks.run(q, 'ended', id, job)
  if was_queued then Lanes.leave(q, job[Field.LANE], 1) end -- a claim skips its entry
end

-- Deletes the record of a job that has ended.
function Finish.forget(q, limits, id, job)
  Hooks.run(q, 'forget', id, job, 0)
  Finish.keep(q, limits, id, job, 0)
  if not Flows.needs(q, job) then redis.call('DEL', Keys.body(q, id)) end
  Finish.unlist(q, id)
end

-- Takes a job from the lists of failed jobs.
function Finish.unlist(q, id)
  redis.call('ZREM', q.base .. Keys.DEAD, id)
  redis.call('ZREM', q.base .. Keys.CUT, id)
end

-- Removes a job from the dead jobs because there are too many. From now on it is kept like any other job that has
-- ended: for its own ttl after its end. Returns for how many ms that is.
function Finish.unbury(q, limits, id)
  local job = Record.load(q, id)
  if not job or job[Field.STATE] ~= 'failed' then return 0 end
  if not job[Field.TTL] then return redis.call('PTTL', Keys.job(q, id)) end
  local left, has_body = job[Field.ENDED] + job[Field.TTL] - q.now, job[Field.JOB] == true
  Hooks.run(q, 'forget', id, job, math.max(0, left))
  job[Field.JOB], job[Field.TTL] = false, false
  Finish.keep(q, limits, id, job, left)
  if has_body then redis.call('DEL', Keys.body(q, id)) end
  return left
end

-- Fails a job, and keeps it for the operator: for its outcome's time or that of dead jobs, whichever is longer. A
-- call that buries jobs must end with `trim_dead`. `how` is as above.
function Finish.bury(q, limits, id, job, outcome, ttl, how)
  local dead_ttl = limits.dead_ttl
  if ttl < dead_ttl then
    Record.widen(job, Field.TTL)
    job[Field.TTL] = ttl
  end
  Finish.finish(q, limits, id, job, 'failed', outcome, math.max(ttl, dead_ttl), how)
  if dead_ttl <= 0 then return end
  redis.call('ZADD', q.base .. Keys.DEAD, q.now, id)
  redis.call('PEXPIRE', q.base .. Keys.DEAD, dead_ttl)
  q.buried = q.buried + 1
end

-- Removes dead jobs over the limit: at most as many as this call has buried, and TRIMMED more, because the limit
-- may have been lowered by hundreds of thousands. Returns whether there are still too many.
function Finish.trim_dead(q, limits)
  local most = q.buried + Finish.TRIMMED
  local old = math.min(redis.call('ZCOUNT', q.base .. Keys.DEAD, '-inf', q.now - limits.dead_ttl), most)
  if old > 0 then redis.call('ZREMRANGEBYRANK', q.base .. Keys.DEAD, 0, old - 1) end
  local over = redis.call('ZCARD', q.base .. Keys.DEAD) - limits.dead_limit
  if over <= 0 then return false end
  local cut, longest = redis.call('ZRANGE', q.base .. Keys.DEAD, 0, math.min(over, most) - 1, 'WITHSCORES'), 0
  for i = 1, #cut, 2 do
    local left = Finish.unbury(q, limits, cut[i])
    if left > 0 then redis.call('ZADD', q.base .. Keys.CUT, cut[i + 1], cut[i]) end
    longest = math.max(longest, left)
    redis.call('ZREM', q.base .. Keys.DEAD, cut[i])
  end
  Finish.clear_cut(q, #cut, longest)
  return over > most
end

-- Removes members of CUT whose records are gone, of so many that are chosen at random: twice as many as were
-- added. So at most about half of them are such. The key is kept for at least `left` ms.
function Finish.clear_cut(q, tried, left)
  local some = redis.call('ZRANDMEMBER', q.base .. Keys.CUT, tried)
  for _, id in ipairs(some) do
    if redis.call('EXISTS', Keys.job(q, id)) == 0 then redis.call('ZREM', q.base .. Keys.CUT, id) end
  end
  local key = q.base .. Keys.CUT
  if some[1] and left > redis.call('PTTL', key) then redis.call('PEXPIRE', key, left) end
end

-- Gives a running job back to its lane; `way` is passed to its hooks.
function Finish.give_back(q, id, job, way, front)
  Hooks.run(q, 'back', id, job, way, q.now)
  Lanes.push(q, job[Field.LANE], id, front)
  job[Field.STATE], job[Field.WORKER] = false, false
  History.note_ready(q, job)
  Record.save(q, id, job)
end
