-- Adds jobs to a queue: what the commands share that do so.
--
-- First each job is prepared, which decides about its unique key. Then all are written: to their lanes, times and
-- groups, and their records last, all at once. If a script fails before, there are only entries or due times
-- without a record, which are ignored: no job has a record without being queued.
--
-- NEEDS: keys, msgpack, record_text_write, record, lanes, hooks, dead, unique, successors, series, limits, finish
-- NEEDS: cancellation, record_text_limited, limit_conflicts
local Adding = {}

-- What is added by one call: `jobs` are those that were prepared, and `added` the same by their ids. `watched` is
-- the channel of a process that will wait for them, '' for none; `tombstone`, for how many ms after its send a job
-- must be found; `ttl`, for how many ms the outcome of a job is kept that a limit ends, nil if none can.
function Adding.begin(watched, tombstone, ttl)
  return {
    watched = watched ~= '' and watched, tombstone = tombstone, ttl = ttl, jobs = {}, added = {},
    queued = {}, lane = Keys.NORMAL, ending = {}, chosen = {},
  }
end

-- The time at which a job is to run, if that is later than now.
function Adding.later(q, due)
  if due == '' then return nil end
  local at = tonumber(due)
  if string.sub(due, 1, 1) == '+' then at = q.now + at end
  return at > q.now and at
end

-- Decides about a job with a unique key; returns the job that is there in its place, nil if it is to be added.
function Adding.instead(q, batch, id, job)
  local lock = job.extra.unique
  if Series.is_one(lock) then
    local instead = Series.place(q, id, job, batch.added)
    if instead ~= id then Successors.leave_tombstone(q, id, job, instead, batch.tombstone) end
    return instead ~= id and instead or nil
  end
  if redis.call('SET', Keys.unique(q, lock[1]), id, 'NX') then return nil end -- as `Unique.note` would
  local owner, there, following = Unique.owner(q, id, lock, batch.added)
  if not owner then
    Unique.take(q, id, lock, true)
    return nil
  end
  local instead = owner
  if lock[3] == 'latest' or lock[3] == 'replace' then
    instead = Successors.place(q, id, job, owner, there, following, batch.added, batch.tombstone)
  end
  return instead ~= id and instead or nil
end

-- Prepares a job: `job` has `envelope` and `nonce`, and may have `lane`, `due` (as enqueue.lua has it) and
-- `extra`. `is_there`: a dead job has its id. Returns the job that is there in its place, nil if it is to be
-- added.
function Adding.prepare(q, batch, id, job, is_there)
  job.id, job.due = id, job.due and Adding.later(q, job.due)
  if job.lane == '' then job.lane = nil end
  local instead = job.extra and job.extra.unique and Adding.instead(q, batch, id, job)
  if instead then return instead end
  if is_there then Dead.free_id(q, id) end -- not before: a job that is not added leaves the dead one there
  batch.added[id] = job
  batch.jobs[#batch.jobs + 1] = job
end

-- Queues a job. Consecutive jobs for the same lane share entries.
function Adding.queue(q, batch, lane, id)
  if lane ~= batch.lane then
    Lanes.push_all(q, batch.lane, batch.queued, 1)
    batch.queued = {}
  end
  batch.lane = lane
  batch.queued[#batch.queued + 1] = id
end

-- A job's record. A large envelope is written to its own key, so this is called after the job was queued.
function Adding.record(q, batch, job)
  local envelope, nonce, due = job.envelope, job.nonce, job.due
  local is_plain = not (job.lane or due or job.extra) and nonce == ''
  if is_plain and #envelope <= BODY_LIMIT then
    batch.packed = batch.packed or batch.watched and packed(batch.watched)
    return fresh(q, envelope, batch.packed)
  end
  if job.waits and nonce == '' and not job.lane and LimitText.fits(envelope, job.extra) then
    batch.packed = batch.packed or batch.watched and packed(batch.watched)
    return LimitText.waiting(q, envelope, batch.packed, cmsgpack.pack(job.extra.limits), job.extra.waits[1])
  end
  local state = (job.follows or job.waits) and 'waiting' or due and 'scheduled'
  local record = Record.new(q, job.id, envelope, job.lane, nonce ~= '' and nonce, state)
  if job.extra then
    Record.widen(record, Field.EXTRA)
    record[Field.EXTRA] = job.extra
    Hooks.run(q, 'enter', job.id, record, due or q.now)
  end
  if batch.watched then
    Record.widen(record, Field.WAITERS)
    record[Field.WAITERS] = batch.watched
  end
  return cmsgpack.pack(record)
end

-- Decides about a job under limits: it waits in its group, is dropped, or another one is cancelled for it.
function Adding.arrive(q, batch, job)
  local use = batch.ttl and Conflicts.crowded(q, job.extra.limits)
  local how = use and use[Use.ON_LIMIT] or 'wait'
  local victim = how ~= 'wait' and (how == 'drop' and job.id or Conflicts.victim(q, use, batch.chosen))
  local ending = batch.ending -- the jobs that are to end because of a limit, in turn with the limit's name
  if victim then
    batch.chosen[victim] = true
    ending[#ending + 1], ending[#ending + 2] = victim, use[Use.NAME]
  end
  if not q.waits then Limits.begin_arrivals(q) end
  Limits.arrive(q, job.id, job.lane, job.extra, how ~= 'wait' and how ~= 'drop')
  job.waits = true
end

-- Writes what was prepared. Limits may have jobs end then: `ending` has these.
function Adding.write(q, batch)
  for _, job in ipairs(batch.jobs) do
    if job.follows then
      Hooks.follow(q, job.id)
    elseif job.due then
      Lanes.schedule(q, job.id, job.due, job.lane)
    elseif job.extra and job.extra.limits then
      Adding.arrive(q, batch, job)
    else
      Adding.queue(q, batch, job.lane or Keys.NORMAL, job.id)
    end
  end
  if q.waits then Limits.end_arrivals(q) end
  Lanes.push_all(q, batch.lane, batch.queued, 1)
  local records = {}
  for i, job in ipairs(batch.jobs) do
    records[2 * i - 1], records[2 * i] = Keys.job(q, job.id), Adding.record(q, batch, job)
  end
  Record.set_all(records)
end

-- Why limits end jobs, by their outcomes.
function Adding.reasons(batch)
  local texts, ending = {}, batch.ending
  for i = 2, #ending, 2 do texts[Conflicts.outcome(ending[i])] = Conflicts.reason(ending[i]) end
  return texts
end

-- Ends the jobs that limits end.
function Adding.end_all(q, batch)
  local limits, ending = {tombstone = batch.tombstone}, batch.ending
  for i = 1, #ending, 2 do
    local id, job = ending[i], Record.load(q, ending[i])
    local outcome = Conflicts.outcome(ending[i + 1])
    if job and batch.added[id] then
      Finish.finish(q, limits, id, job, 'cancelled', outcome, batch.ttl, {keeps_call = true})
    elseif job then
      Cancel.one(q, limits, id, job, outcome, batch.ttl)
    end
  end
end

-- Lets the windows of unique keys begin, once the jobs that hold them are there.
function Adding.count_windows(q, batch)
  for _, job in ipairs(batch.jobs) do
    if job.extra and job.extra.unique then Unique.count_from_now(q, job.id, job.extra.unique) end
  end
end
