-- The dead: failed jobs that are kept for the operator.
--
-- NEEDS: keys, record, hooks
local Dead = {}

-- Lets a dead job go whose id a new send may use; whether there was one. The record of the new job takes the place of its.
function Dead.give_up(q, id)
  local job = load(q, id)
  if not job or not is_free(q, job) then return false end
  run_hooks(q, 'forget', id, job, 0)
  redis.call('ZREM', q.base .. DEAD, id)
  redis.call('DEL', body_key(q, id))
  return true
end
