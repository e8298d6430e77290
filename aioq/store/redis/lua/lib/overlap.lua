-- Schedules: the jobs that `overlap` holds back, and the check of the index.
--
-- NEEDS: call, keys, record, lanes, hooks, history
local Overlap = {}

-- The error reply if the key of the index of schedules holds another type; nil if it does not.
function Overlap.without_index(q)
  if not is_unreadable(redis.pcall('ZRANGE', q.base .. Keys.SCHEDULES, 0, 0)) then return nil end
  local key = q.base .. Keys.SCHEDULES
  return redis.error_reply('WRONGTYPE ' .. key .. ' holds no schedules but something else; move it away')
end

-- Queues the job that was held back until this job has ended. This is the job of a tick: its id is the schedule's
-- id, `@` and the time.
function Overlap.let_next(q, id)
  local key = Keys.schedule(q, string.match(id, '^(.*)@'))
  local found = redis.pcall('HMGET', key, 'current', 'held')
  local held = not is_unreadable(found) and found[2]
  if not held then return end
  if held == id then
    redis.call('HDEL', key, 'held')
  elseif found[1] == id then
    local job = Record.load(q, held)
    -- A newer record stays as it is: a worker that can read it releases the job with the next tick.
    if not job and redis.call('EXISTS', Keys.job(q, held)) == 1 then return end
    if job and job[Field.STATE] == 'waiting' then
      Hooks.run(q, 'back', held, job, 'let_next', q.now)
      Lanes.push(q, job[Field.LANE], held, false)
      job[Field.STATE] = false
      History.note_ready(q, job)
      Record.save(q, held, job)
    end
    redis.call('HSET', key, 'current', held)
    redis.call('HDEL', key, 'held')
  end
end
