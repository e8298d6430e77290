-- The dead: failed jobs that are kept for the operator.
--
-- NEEDS: base, common, record_text_write, record_text_read, record
local DEAD = base .. ':dead'

-- Lets a dead job go whose id a new send may use; whether there was one. The record of the new job takes the place of its.
local function give_up(id)
  local job = load(id)
  if not job or not is_free(job) then return false end
  redis.call('ZREM', DEAD, id)
  redis.call('DEL', body_key(id))
  return true
end
