-- What is due beside jobs: members of TIMERS are a kind and an id. The time of the first of them is in SCHEDULED too, so
-- that a look there for the next job that is due finds timers too, without reading more; see promote.lua.
--
-- A key of another type in the place of TIMERS keeps no job from its way: then nothing is due there.
--
-- NEEDS: call, keys

-- The member of SCHEDULED that says when the first timer is due, or earlier where that one was stopped: no job has this id.
local FIRST_TIMER = ''

-- The kinds: a job is to end if it has not been started by then; a job is to end because its call is gone.
local EXPIRE, CALL_GONE = 'expire', 'gone'

local function set_timer(q, kind, id, at)
  local set = redis.pcall('ZADD', q.base .. TIMERS, at, kind .. ' ' .. id)
  if not is_unreadable(set) then redis.call('ZADD', q.base .. SCHEDULED, 'LT', at, FIRST_TIMER) end
end
