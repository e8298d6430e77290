-- Calls whose unique key another job holds, and which take the place of that job's call (`replace`, `latest`) or
-- are run once that job has ended (`latest`).
--
-- NEEDS: keys, record_text_write, record, hooks, unique, operated, groups, limits, batches
local Successors = {}

-- Gives a job the call, tags, expiry and lane of a new one, as if it had never been run; the caller writes its
-- record, unless it is queued and changes its lane.
function Successors.change(q, id, job, new)
  local extra, lane = job[Field.EXTRA], new.lane or false
  if #new.envelope > BODY_LIMIT then redis.call('SET', Keys.body(q, id), new.envelope) end
  job[Field.JOB] = #new.envelope > BODY_LIMIT or new.envelope
  extra.tags, extra.expires, extra.unique[6] = new.extra.tags, new.extra.expires, 0
  if extra.limits then Limits.give_back(q, id, extra.limits) end
  extra.limits, extra.batch = new.extra.limits or extra.limits, new.extra.batch or extra.batch
  for _, field in ipairs({Field.OUTCOME, Field.ATTEMPTS, Field.PROGRESS, Field.PARKED, Field.CUTS}) do
    if job[field] then job[field] = false end
  end
  if lane == (job[Field.LANE] or false) then return end
  if not job[Field.STATE] then return Operated.prioritize(q, id, job, lane or Keys.NORMAL) end
  job[Field.LANE] = lane
end

-- The same for one that runs, and is put off by its worker.
function Successors.replace_call(q, id, job, new)
  local had_body = job[Field.JOB] == true
  Successors.change(q, id, job, new)
  Record.save(q, id, job)
  if had_body and job[Field.JOB] ~= true then redis.call('DEL', Keys.body(q, id)) end
end

-- The same for one that waits to be run; it also gets the time.
function Successors.replace(q, id, job, new)
  Batches.release(q, id, job)
  local had_body, at, group, lane = job[Field.JOB] == true, new.due or q.now, Groups.of(job), job[Field.LANE]
  Successors.change(q, id, job, new)
  if group and at <= q.now then
    -- It keeps its place in the group, unless it has another lane or other keys now.
    Hooks.run(q, 'back', id, job, 'reschedule', at)
    if lane ~= job[Field.LANE] then Groups.change_lane(q, id, job[Field.LANE] or Keys.NORMAL, group) end
    Limits.arrive(q, id, job[Field.LANE] or nil, job[Field.EXTRA])
    Record.save(q, id, job)
    if Groups.of(job) ~= group then
      Limits.leave(q, id, group)
      redis.call('SADD', q.base .. Keys.WAITING, id) -- it waits in the other one
    end
  elseif job[Field.STATE] == 'waiting' and not group then
    if new.extra.unique[3] ~= 'debounce' then job[Field.EXTRA].unique[5] = new.due or 0 end
    Hooks.run(q, 'back', id, job, 'reschedule', at)
    Record.save(q, id, job)
  elseif job[Field.STATE] or at > q.now then
    Operated.reschedule(q, id, job, at)
  else
    Hooks.run(q, 'back', id, job, 'reschedule', at)
    Record.save(q, id, job)
  end
  if had_body and job[Field.JOB] ~= true then redis.call('DEL', Keys.body(q, id)) end
end

-- The same for one that follows another one; its worker may just be asking whether it may run.
function Successors.replace_next(q, id, job, new)
  if job[Field.STATE] ~= 'running' then return Successors.replace(q, id, job, new) end
  job[Field.EXTRA].unique[5] = Unique.ASKS_FOR_CALL
  Successors.replace_call(q, id, job, new)
end

-- The same for a job that this call is about to add.
function Successors.replace_new(job, new)
  job.envelope, job.due, job.lane = new.envelope, new.due, new.lane
  job.extra.tags, job.extra.expires, job.extra.limits = new.extra.tags, new.extra.expires, new.extra.limits
  job.extra.batch = new.extra.batch
  if job.follows then job.extra.unique[5] = new.due or 0 end
end

-- Decides about a job whose key `owner` holds. Returns the job that is there in its place, or its own id if it is
-- to follow the owner. `job`, `following` and `adding` are as in `Unique.owner`.
function Successors.choose(q, id, new, owner, job, following, adding)
  local lock = new.extra.unique
  if adding[owner] then
    Successors.replace_new(adding[owner], new)
    return owner
  end
  if not job then return owner end
  if following and lock[3] == 'latest' then
    if adding[following] then
      Successors.replace_new(adding[following], new)
      return following
    end
    local alive, next_job = Unique.is_alive(q, lock[1], following)
    if next_job and alive then Successors.replace_next(q, following, next_job, new) end
    if alive then return following end
  end
  local waits = job[Field.STATE] ~= 'running' and job[Field.STATE] ~= 'moving'
  if waits and (lock[3] == 'latest' or job[Field.EXTRA].unique[6] ~= 1) then
    Successors.replace(q, owner, job, new)
    return owner
  end
  -- A key that is held for a time, by a job of the same scope, is given back by no job, so none can follow.
  if lock[3] ~= 'latest' or select(3, Unique.noted(q, lock[1])) then return owner end
  new.follows, lock[5] = true, new.due or 0
  Unique.note(q, lock[1], owner, id)
  return id
end

-- A send that has changed another job leaves a tombstone, which names that job. If the send is repeated because
-- its reply was lost, it must not overwrite what a later one has changed since.
function Successors.leave_tombstone(q, id, new, instead, tombstone)
  if tombstone > 0 then
    redis.call('SET', Keys.tombstone(q, new.nonce ~= '' and new.nonce or id), instead, 'PX', tombstone)
  end
end

-- Decides about a job as `choose`, and leaves such a tombstone.
function Successors.place(q, id, new, owner, job, following, adding, tombstone)
  local instead = Successors.choose(q, id, new, owner, job, following, adding)
  if instead ~= id then Successors.leave_tombstone(q, id, new, instead, tombstone) end
  return instead
end
