-- Jobs that are moved to another queue. The record stays where the job was, until the job has ended: `moving` while
-- the job is on its way, and `moved` once it has arrived. It leads to the job, and keeps the processes that wait for
-- it, which are notified here when the queue that has the job tells of its end.
--
-- NEEDS: keys, record, timers, lanes, hooks, outbox
local Moves = {}

-- When a job that was moved is looked after for the first time, in ms; later after half of its age. Its record in the
-- other queue may have vanished without an end.
Moves.LOOK_AFTER = 60000
function Moves.look_later(q, id, move)
  Timer.set(q, Timer.LOOK, id, q.now + math.max(Moves.LOOK_AFTER, math.floor((q.now - move[5]) / 2)))
end

-- Puts a job that is in no lane into its lane, or schedules it, and writes its record.
function Moves.queue(q, id, job, state, due)
  local later = state == 'scheduled' and due > q.now
  run_hooks(q, 'back', id, job, 'move', later and due or q.now)
  if later then Lanes.schedule(q, id, due, job[LANE] or nil) else Lanes.push(q, job[LANE], id, false) end
  job[STATE] = later and 'scheduled'
end

-- Sends a queued or a scheduled job to another queue.
function Moves.depart(q, id, job, target)
  local state, due = job[STATE] or 'queued', redis.call('ZSCORE', q.base .. SCHEDULED, id)
  widen(job, EXTRA)
  run_hooks(q, 'leave', id, job)
  local entry = Outbox.add(q, target, 'job', id)
  job[EXTRA] = job[EXTRA] or {}
  job[EXTRA].move = {target, entry, state, state == 'scheduled' and tonumber(due) or 0, q.now}
  job[STATE] = 'moving'
  Moves.look_later(q, id, job[EXTRA].move)
  save(q, id, job)
  redis.call('ZREM', q.base .. SCHEDULED, id)
end

-- The record of a job that has arrived in the other queue: what leads there, and who waits for it here.
function Moves.forward(job)
  local move, origins = move_of(job), origins_of(job)
  local forward = {false, job[SENT], job[LANE], job[NONCE], 'moved'}
  widen(forward, EXTRA)
  forward[WAITERS] = job[WAITERS]
  forward[EXTRA] = {move = {move[1], '', move[3], move[4], move[5]}, origins = origins}
  return forward
end

-- Forgets that a job was moved: it is here again.
function Moves.forget(job)
  job[EXTRA].move = nil
  if not next(job[EXTRA]) then job[EXTRA] = false end
end
