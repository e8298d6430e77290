-- Jobs that are moved to another queue. The record stays where the job was, until the job has ended: `moving`
-- while the job is on its way, and `moved` once it has arrived. It leads to the job, and keeps the processes that
-- wait for it, which are notified here when the queue that has the job tells of its end.
--
-- NEEDS: keys, record, timers, lanes, hooks, outbox, groups, limits, batches
local Moves = {}

-- When a job that was moved is looked after for the first time, in ms; later after half of its age. Its record in
-- the other queue may have vanished without an end.
Moves.LOOK_AFTER = 60000
function Moves.look_later(q, id, move)
  Timer.set(q, Timer.LOOK, id, q.now + math.max(Moves.LOOK_AFTER, math.floor((q.now - move[5]) / 2)))
end

-- Puts a job that is in no lane into its lane, or schedules it, and writes its record.
function Moves.queue(q, id, job, state, due)
  local later = state == 'scheduled' and due > q.now
  Hooks.run(q, 'back', id, job, 'move', later and due or q.now)
  if later then
    Lanes.schedule(q, id, due, job[Field.LANE] or nil)
  else
    Lanes.push(q, job[Field.LANE], id, false)
  end
  job[Field.STATE] = later and 'scheduled'
end

-- Sends a queued or a scheduled job to another queue, or one that waits in a group.
function Moves.depart(q, id, job, target)
  Batches.release(q, id, job)
  local group = Groups.of(job)
  local state, due = job[Field.STATE] or 'queued', redis.call('ZSCORE', q.base .. Keys.SCHEDULED, id)
  Record.widen(job, Field.EXTRA)
  Hooks.run(q, 'leave', id, job)
  local entry = Outbox.add(q, target, 'job', id)
  job[Field.EXTRA] = job[Field.EXTRA] or {}
  job[Field.EXTRA].move = {target, entry, state, state == 'scheduled' and tonumber(due) or 0, q.now}
  job[Field.STATE], job[Field.EXTRA].waits = 'moving', nil
  Moves.look_later(q, id, job[Field.EXTRA].move)
  Record.save(q, id, job)
  redis.call('ZREM', q.base .. Keys.SCHEDULED, id)
  if state == 'queued' then Lanes.leave(q, job[Field.LANE], 1) end -- a claim skips its entry
  Limits.leave(q, id, group)
end

-- Adds a new job that goes to another queue at once; `due` is when it is to run, false for at once. `write` makes
-- its record, once what makes the job found is there.
function Moves.add(q, id, target, due, write)
  local entry = Outbox.add(q, target, 'job', id)
  local move = {target, entry, due and 'scheduled' or 'queued', due or 0, q.now}
  Moves.look_later(q, id, move)
  local job = write()
  Hooks.run(q, 'enter', id, job, due or q.now)
  Hooks.run(q, 'leave', id, job)
  job[Field.EXTRA].move, job[Field.STATE] = move, 'moving'
  Record.save(q, id, job)
end

-- The record of a job that has arrived in the other queue: what leads there, and who waits for it here.
function Moves.forward(job)
  local move, origins, flow = Record.move_of(job), Record.origins_of(job), job[Field.EXTRA].flow
  local forward = {false, job[Field.SENT], job[Field.LANE], job[Field.NONCE], 'moved'}
  Record.widen(forward, Field.EXTRA)
  forward[Field.WAITERS] = job[Field.WAITERS]
  forward[Field.EXTRA] = {move = {move[1], '', move[3], move[4], move[5]}, origins = origins, flow = flow}
  return forward
end

-- Forgets that a job was moved: it is here again.
function Moves.forget(job)
  job[Field.EXTRA].move = nil
  if not next(job[Field.EXTRA]) then job[Field.EXTRA] = false end
end
