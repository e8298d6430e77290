-- Batches: jobs that wait for others, to be run together. `aioq/store/memory/batches.py` does the same in memory.
--
-- `extra.batch` is a list, as `Gather` in aioq/store/extra.py: 1 the key, 2 the most jobs of a batch, 3 how long a
-- job waits for others in ms, 4 the most bytes of the calls of a batch. Jobs of one lane and key share batches;
-- both together are the name of what waits: `normal shop.save`. While a job is to be run now, its wait is
-- negative, -1 less the usual one (`Batches.hurry`), until it is taken.
--
-- A claim that meets such a job in its lane puts it to those that wait already (claim.lua). If these are enough,
-- it takes them all; of the jobs that it was asked for they count as one. Else the job is `waiting`, in no lane,
-- its id is in the sorted set of what waits, and a timer is set for when the first of them has waited for long
-- enough. Then an entry comes to the lane whose id begins with a mark that no id has, followed by that name: the
-- claim that meets it takes what there is. So all ways of a job into a lane are those of any other job.
--
-- An id is added before its record says that the job waits, and removed after that says that it runs. So a member
-- whose job does not wait is nobody's.
--
-- NEEDS: call, keys, record, lanes, timers, unique
local Batches = {}
Batches.MARK = '\31'
-- The most jobs of a batch, see aioq/jobs/batches.py.
Batches.MOST = 500
-- After how many ms what waits gets an entry once more: one may have got lost.
Batches.LOOK_AGAIN = 60000

function Batches.name_of(job) return (job[Field.LANE] or Keys.NORMAL) .. ' ' .. job[Field.EXTRA].batch[1] end
function Batches.lane_of(name) return string.match(name, '^%S*') end

-- The ids of the first jobs that wait, at most so many.
function Batches.waiting(q, name, most)
  local ids = redis.pcall('ZRANGE', Keys.batch(q, name), 0, most - 1)
  return is_unreadable(ids) and {} or ids
end

-- When the first of these jobs has waited for long enough.
function Batches.due(ids, jobs)
  local due
  for _, id in ipairs(ids) do
    local job = jobs[id]
    if job then
      local at = (job[Field.READY] or job[Field.SENT]) + job[Field.EXTRA].batch[3]
      due = math.min(due or at, at)
    end
  end
  return due
end

-- Lets jobs wait, given by their ids and records.
function Batches.wait(q, name, ids, jobs)
  local members, changed = {}, {}
  for i, id in ipairs(ids) do
    members[2 * i - 1], members[2 * i] = q.micros + i, id
    Record.widen(jobs[id], Field.STATE)
    jobs[id][Field.STATE] = 'waiting'
    changed[2 * i - 1], changed[2 * i] = id, jobs[id]
  end
  redis.call('ZADD', Keys.batch(q, name), unpack(members))
  redis.call('SADD', q.base .. Keys.WAITING, unpack(ids))
  Batches.time(q, name, Batches.due(ids, jobs))
  Record.save_all(q, changed)
end

-- Sets the timer of what waits, if it has none.
function Batches.time(q, name, due)
  local timed = redis.pcall('ZSCORE', q.base .. Keys.TIMERS, Timer.BATCH .. ' ' .. name)
  if not timed or is_unreadable(timed) then Timer.set(q, Timer.BATCH, name, due) end
end

-- Forgets jobs that do not wait any more; the timer goes with the last one, else it is set anew.
function Batches.forget(q, name, ids)
  local key = Keys.batch(q, name)
  is_unreadable(redis.pcall('ZREM', key, unpack(ids)))
  is_unreadable(redis.pcall('SREM', q.base .. Keys.WAITING, unpack(ids)))
  if redis.call('EXISTS', key) == 0 then
    is_unreadable(redis.pcall('ZREM', q.base .. Keys.TIMERS, Timer.BATCH .. ' ' .. name))
  end
end

-- Queues a job again that waits for a batch, before it is changed; nothing for any other job. `hurries`: the claim
-- that meets it takes it at once, with those that wait.
function Batches.release(q, id, job, hurries)
  if job[Field.STATE] ~= 'waiting' or not job[Field.EXTRA] or not job[Field.EXTRA].batch then return end
  local name = Batches.name_of(job)
  local at = redis.pcall('ZSCORE', Keys.batch(q, name), id)
  if not at or is_unreadable(at) then return end -- it waits for another job with its unique key
  Batches.queue(q, id, job, name, hurries)
end

-- Changes how long a job waits to what it is while the job is to be run now, or back.
function Batches.hurry(job) job[Field.EXTRA].batch[3] = -1 - job[Field.EXTRA].batch[3] end

function Batches.queue(q, id, job, name, hurries)
  if hurries and job[Field.EXTRA].batch[3] >= 0 then Batches.hurry(job) end
  Lanes.push(q, job[Field.LANE], id, false)
  job[Field.STATE] = false
  Record.save(q, id, job)
  Batches.forget(q, name, {id})
end

-- Whether a job waits for another one with its unique key, and not for a batch.
function Batches.follows(q, id, lock)
  return lock and select(2, Unique.noted(q, lock[1])) == id
end
