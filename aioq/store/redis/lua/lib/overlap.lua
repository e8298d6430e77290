-- What several scripts know of schedules.
--
-- NEEDS: base, common, record_text_write, record_text_read, record, push, lanes
local function schedule_key(id) return base .. ':schedule:' .. id end

-- What to answer where a key of another type stands in the place of the index of the schedules; nil where none does.
local function without_index()
  if not is_unreadable(redis.pcall('ZRANGE', SCHEDULES, 0, 0)) then return nil end
  return redis.error_reply('WRONGTYPE ' .. SCHEDULES .. ' holds no schedules but something else; move it away')
end

-- The job of a tick has ended (its id is its schedule's, `@` and the time): the one held back for it is queued.
local function let_next(id)
  local key = schedule_key(string.match(id, '^(.*)@'))
  local found = redis.pcall('HMGET', key, 'current', 'held')
  local held = not found.err and found[2]
  if not held then return end
  if held == id then
    redis.call('HDEL', key, 'held')
  elseif found[1] == id then
    local job = load(held)
    -- One of a later version waits on: whoever reads it lets it go with the next tick.
    if not job and redis.call('EXISTS', job_key(held)) == 1 then return end
    if job and job[STATE] == 'waiting' then
      push(job[LANE], held, false)
      job[STATE] = false
      save(held, job)
    end
    redis.call('HSET', key, 'current', held)
    redis.call('HDEL', key, 'held')
  end
end

