-- Timers: times at which something other than a scheduled job is due. A member of TIMERS is a kind and a job's id.
-- The time of the first timer is in SCHEDULED too: so whoever reads there when the next job is due also learns of
-- timers, without reading a second key; see promote.lua.
--
-- If the key of TIMERS holds another type, there are no timers, and jobs are handled as usual.
--
-- NEEDS: call, keys

local Timer = {}

-- The member of SCHEDULED for the first timer. Its time may be too early, if that timer was stopped. No job has
-- this id.
Timer.FIRST = ''

-- The kinds: end a job if it has not been started by then; end a job because its call is gone; relay the entries
-- of the outbox for a queue, whose name takes the place of the id; look after a job that was moved to another
-- queue; carry on a bulk operation, whose id takes the place of the job's; look whether the job is still there
-- after which one is to be run; look at a group of a limit, whose name takes the place of the id; look at some
-- groups of a limit, and then at the others: the place of the id is taken by where to continue, and the limit's
-- name.
Timer.EXPIRE, Timer.CALL_GONE, Timer.RELAY = 'expire', 'gone', 'relay'
Timer.LOOK, Timer.OPERATE, Timer.FOLLOW, Timer.GROUP = 'look', 'operate', 'follow', 'group'
Timer.LIMIT = 'limit'
-- Look at all jobs that wait, in steps; the place of the id is taken by where to continue; see lib/waiting.lua.
Timer.WAITING = 'waiting'
-- Let jobs be run that wait for a batch, whose name takes the place of the id; see lib/batches.lua.
Timer.BATCH = 'batch'
-- Take a step in a flow, whose id takes the place of the job's.
Timer.FLOW = 'flow'

-- After how many ms a job that follows another one looks whether that one is still there: its record may vanish
-- without an end.
Timer.FOLLOW_AFTER = 60000

function Timer.set(q, kind, id, at)
  local set = redis.pcall('ZADD', q.base .. Keys.TIMERS, at, kind .. ' ' .. id)
  if not is_unreadable(set) then redis.call('ZADD', q.base .. Keys.SCHEDULED, 'LT', at, Timer.FIRST) end
end
