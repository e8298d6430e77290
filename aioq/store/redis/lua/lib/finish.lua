-- The doors: how jobs end and go once they have ended, or come back to their lane. Each way calls the hooks of the job.
--
-- `limits` are how long things are kept, as the caller passes them: `tombstone`, for how long after its send a job is to be
-- found, `dead_ttl` (both in ms) and `dead_limit`; the last two are needed where jobs are buried.
--
-- NEEDS: keys, record_text_write, record, results, lanes, hooks, overlap
local Finish = {}

-- Stores the record of a job that has ended for so many ms, or lets it go at once where those are over. Of a dead one a
-- new send of the id may take the place before that.
function Finish.keep(q, limits, id, job, ttl)
  if math.min(ttl, job[TTL] or ttl) < limits.tombstone then
    local left = job[SENT] + limits.tombstone - q.now
    if left > 0 and math.min(ttl, job[TTL] or ttl) < left then
      redis.call('SET', tombstone_key(q, job[NONCE] or id), '', 'PX', left)
    end
  end
  if ttl <= 0 then
    redis.call('DEL', job_key(q, id))
  else
    redis.call('SET', job_key(q, id), cmsgpack.pack(job), 'PX', ttl)
  end
end

-- Lets what has a key of its own go with the record of an ended job that names it, or at once where none does.
function Finish.let_body_go(q, id, job, ttl)
  if ttl > 0 and (job[JOB] or job[OUTCOME] == true) then
    redis.call('PEXPIRE', body_key(q, id), ttl)
  else
    redis.call('DEL', body_key(q, id))
  end
end

-- Ends a job that has not ended: the outcome is stored, or dropped at once where ttl is 0, and the waiting processes are notified at
-- the end of the call (`Results.publish`). A job that has failed keeps its call, for it may be opened again; any other does
-- with `keeps_call`.
function Finish.finish(q, limits, id, job, state, outcome, ttl, keeps_call)
  run_hooks(q, 'finish', id, job, ttl)
  if string.find(id, '@', 1, true) then Overlap.let_next(q, id) end
  Results.notify(q, id, job[WAITERS], outcome, ttl > 0)
  local has_body, is_large = job[JOB] == true, state == 'succeeded' and #outcome > BODY_LIMIT and ttl > 0
  if is_large then redis.call('SET', body_key(q, id), outcome, 'PX', ttl) end
  widen(job, ENDED)
  job[STATE], job[OUTCOME], job[ENDED] = state, is_large or outcome, q.now
  if job[WAITERS] then job[WAITERS] = false end
  if state ~= 'failed' and not keeps_call then job[JOB] = false end
  Finish.keep(q, limits, id, job, ttl)
  -- Not first: a server that is out of memory would let it through, and all that follows.
  if has_body then Finish.let_body_go(q, id, job, ttl) end
  run_hooks(q, 'ended', id, job)
end

-- One dead job too many: from now on it is kept as every other outcome is, for its own ttl after its end.
function Finish.unbury(q, limits, id)
  local job = load(q, id)
  if not job or job[STATE] ~= 'failed' or not job[TTL] then return end
  local left, has_body = job[ENDED] + job[TTL] - q.now, job[JOB] == true
  run_hooks(q, 'forget', id, job, math.max(0, left))
  job[JOB], job[TTL] = false, false
  Finish.keep(q, limits, id, job, left)
  if has_body then redis.call('DEL', body_key(q, id)) end
end

-- A failed job is kept for the operator: as long as its outcome, or as the dead are kept, whichever is longer. The call
-- that buries ends with `trim_dead`.
function Finish.bury(q, limits, id, job, outcome, ttl)
  local dead_ttl = limits.dead_ttl
  if ttl < dead_ttl then
    widen(job, TTL)
    job[TTL] = ttl
  end
  Finish.finish(q, limits, id, job, 'failed', outcome, math.max(ttl, dead_ttl))
  if dead_ttl <= 0 then return end
  redis.call('ZADD', q.base .. DEAD, q.now, id)
  redis.call('PEXPIRE', q.base .. DEAD, dead_ttl)
  q.buried = q.buried + 1
end

-- Lets go of the dead that there are too many of, as many as this call has buried and so many more: the limit may have
-- been lowered by hundreds of thousands. Whether more are left.
local TRIMMED = 200
function Finish.trim_dead(q, limits)
  local most = q.buried + TRIMMED
  local old = math.min(redis.call('ZCOUNT', q.base .. DEAD, '-inf', q.now - limits.dead_ttl), most)
  if old > 0 then redis.call('ZREMRANGEBYRANK', q.base .. DEAD, 0, old - 1) end
  local over = redis.call('ZCARD', q.base .. DEAD) - limits.dead_limit
  if over <= 0 then return false end
  for _, id in ipairs(redis.call('ZRANGE', q.base .. DEAD, 0, math.min(over, most) - 1)) do
    Finish.unbury(q, limits, id)
    redis.call('ZREM', q.base .. DEAD, id)
  end
  return over > most
end

-- Sends a job that was running back to its lane; `way` is the one that its hooks get.
function Finish.give_back(q, id, job, way, front)
  run_hooks(q, 'back', id, job, way, q.now)
  Lanes.push(q, job[LANE], id, front)
  job[STATE], job[WORKER] = false, false
  save(q, id, job)
end
