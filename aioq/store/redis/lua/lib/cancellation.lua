-- Cancels one job.
--
-- NEEDS: keys, record, finish
local Cancel = {}

-- Asks for the end of a job that is not to end here: it runs, or is on its way to another queue.
function Cancel.ask(q, id, job, outcome, ttl)
  Record.widen(job, Field.CANCEL_TTL)
  job[Field.CANCEL], job[Field.CANCEL_TTL] = outcome, ttl
  Record.save(q, id, job)
end

-- Cancels a job with a record. Returns the state it was in, '' if it is in another queue; and whether anything was
-- changed.
function Cancel.one(q, limits, id, job, outcome, ttl)
  local state = job[Field.STATE] or 'queued'
  if state == 'running' then
    Cancel.ask(q, id, job, outcome, ttl)
    redis.call('SADD', Keys.cancel(q, job[Field.WORKER]), id)
    redis.call('PUBLISH', Keys.worker_channel(q, job[Field.WORKER]), id .. '\n' .. outcome)
  elseif state == 'queued' or state == 'scheduled' or state == 'waiting' then
    Finish.finish(q, limits, id, job, 'cancelled', outcome, ttl)
    redis.call('ZREM', q.base .. Keys.SCHEDULED, id)
  elseif state == 'moving' then
    Cancel.ask(q, id, job, outcome, ttl)
    return Record.move_of(job)[3], true
  else
    return state ~= 'moved' and state or '', false
  end
  return state, true
end
