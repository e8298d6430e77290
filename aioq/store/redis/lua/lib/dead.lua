-- Dead jobs: failed jobs that are kept for the operator.
--
-- NEEDS: keys, record, hooks
local Dead = {}

-- Whether there is a dead job whose id a new send may use.
function Dead.is_free(q, id)
  local job = Record.load(q, id)
  return job and Record.is_free(q, job)
end

-- Removes a dead job whose id a new send may use; returns whether there was one. The record of the new job
-- replaces its record.
function Dead.free_id(q, id)
  local job = Record.load(q, id)
  if not job or not Record.is_free(q, job) then return false end
  Hooks.run(q, 'forget', id, job, 0)
  redis.call('ZREM', q.base .. Keys.DEAD, id)
  redis.call('DEL', Keys.body(q, id))
  return true
end
