-- What several scripts know of schedules.
--
-- NEEDS: call, keys, record, lanes, hooks
local Overlap = {}

-- The reply where a key of another type is in the place of the index of the schedules; nil where none is.
function Overlap.without_index(q)
  if not is_unreadable(redis.pcall('ZRANGE', q.base .. SCHEDULES, 0, 0)) then return nil end
  return redis.error_reply('WRONGTYPE ' .. q.base .. SCHEDULES .. ' holds no schedules but something else; move it away')
end

-- The job of a tick has ended (its id is its schedule's, `@` and the time): the one held back for it is queued.
function Overlap.let_next(q, id)
  local key = schedule_key(q, string.match(id, '^(.*)@'))
  local found = redis.pcall('HMGET', key, 'current', 'held')
  local held = not is_unreadable(found) and found[2]
  if not held then return end
  if held == id then
    redis.call('HDEL', key, 'held')
  elseif found[1] == id then
    local job = load(q, held)
    -- One of a later version waits on: a worker that can read it releases it with the next tick.
    if not job and redis.call('EXISTS', job_key(q, held)) == 1 then return end
    if job and job[STATE] == 'waiting' then
      run_hooks(q, 'back', held, job, 'let_next', q.now)
      Lanes.push(q, job[LANE], held, false)
      job[STATE] = false
      save(q, held, job)
    end
    redis.call('HSET', key, 'current', held)
    redis.call('HDEL', key, 'held')
  end
end
