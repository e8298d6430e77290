-- How jobs end, or go back to their lane.
--
-- NEEDS: base, common, record_text_write, record_text_read, record, push, lanes, overlap, results, dead
-- For how long after its send a job is to be found, in ms; each script that ends jobs sets it.
local tombstone = 0

-- Stores the record of a job that has ended for so many ms, or lets it go at once where those are over. Of a dead one a
-- new send of the id may take the place before that.
local function keep(id, job, ttl)
  if math.min(ttl, job[TTL] or ttl) < tombstone then
    local left = job[SENT] + tombstone - now
    if left > 0 and math.min(ttl, job[TTL] or ttl) < left then redis.call('SET', done_key(job[NONCE] or id), '', 'PX', left) end
  end
  if ttl <= 0 then
    redis.call('DEL', job_key(id))
  else
    redis.call('SET', job_key(id), cmsgpack.pack(job), 'PX', ttl)
  end
end

-- Lets what has a key of its own go with the record of an ended job that names it, or at once where none does.
local function let_body_go(id, job, ttl)
  if ttl > 0 and (job[JOB] or job[OUTCOME] == true) then
    redis.call('PEXPIRE', body_key(id), ttl)
  else
    redis.call('DEL', body_key(id))
  end
end

-- Ends a job: the outcome is stored, or forgotten at once where ttl is 0, and the waiters are told.
local function finish(id, job, state, outcome, ttl)
  if string.find(id, '@', 1, true) then let_next(id) end
  notify(id, job[WAITERS], outcome, ttl > 0)
  local has_body, is_large = job[JOB] == true, state == 'succeeded' and #outcome > BODY_LIMIT and ttl > 0
  if is_large then redis.call('SET', body_key(id), outcome, 'PX', ttl) end
  widen(job, ENDED)
  job[STATE], job[OUTCOME], job[ENDED] = state, is_large or outcome, now
  if job[WAITERS] then job[WAITERS] = false end
  if state ~= 'failed' then job[JOB] = false end
  keep(id, job, ttl)
  -- Not first: a server that is out of memory would let it through, and all that follows.
  if has_body then let_body_go(id, job, ttl) end
end

-- One dead job too many: from now on it is kept as every other outcome is, for its own ttl after its end.
local function unbury(id)
  local job = load(id)
  if not job or job[STATE] ~= 'failed' or not job[TTL] then return end
  local left, has_body = job[ENDED] + job[TTL] - now, job[JOB] == true
  job[JOB], job[TTL] = false, false
  keep(id, job, left)
  if has_body then redis.call('DEL', body_key(id)) end
end

-- A failed job is kept for the operator: as long as its outcome, or as the dead are kept, whichever is longer. The call
-- that buries ends with `trim_dead`.
local buried = 0
local function bury(id, job, outcome, ttl, dead_ttl)
  if ttl < dead_ttl then
    widen(job, TTL)
    job[TTL] = ttl
  end
  finish(id, job, 'failed', outcome, math.max(ttl, dead_ttl))
  if dead_ttl <= 0 then return end
  redis.call('ZADD', DEAD, now, id)
  redis.call('PEXPIRE', DEAD, dead_ttl)
  buried = buried + 1
end

-- Lets go of the dead that there are too many of, as many as this call has buried and so many more: the limit may have
-- been lowered by hundreds of thousands. Whether more are left.
local TRIMMED = 200
local function trim_dead(dead_ttl, dead_limit)
  local most = buried + TRIMMED
  local old = math.min(redis.call('ZCOUNT', DEAD, '-inf', now - dead_ttl), most)
  if old > 0 then redis.call('ZREMRANGEBYRANK', DEAD, 0, old - 1) end
  local over = redis.call('ZCARD', DEAD) - dead_limit
  if over <= 0 then return false end
  for _, id in ipairs(redis.call('ZRANGE', DEAD, 0, math.min(over, most) - 1)) do
    unbury(id)
    redis.call('ZREM', DEAD, id)
  end
  return over > most
end

-- Sends a job that was running back to its lane.
local function give_back(id, job, front)
  push(job[LANE], id, front)
  job[STATE], job[WORKER] = false, false
  save(id, job)
end
