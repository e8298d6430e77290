-- Every key of a queue; `aioq/store/redis/keys.py` names the same, and docs/design.md says what is in them.
--
-- Each begins with the queue's base key, aioq:{app:queue}, so that all of them are in one cluster slot.
--
-- NEEDS: nothing

-- What a queue has one of: what follows the base key.
local WORKERS = ':workers'
-- Beside it: when each worker last fetched, and for how long each takes its lease, in ms.
local FETCHED, LEASES = ':fetched', ':leases'
-- The workers that wait for jobs, by when they began to wait. The score is below zero after a direct dispatch, until the
-- worker waits again. No lane has an entry that is newer than this key: every job that is queued deletes it, because a
-- direct dispatch must overtake no job. See enqueue_one.lua.
local IDLE = ':idle'
local SCHEDULED, DEAD = ':scheduled', ':dead'
local TIMERS = ':timers'
local SCHEDULES = ':schedules'
-- What the code of each worker declares of schedules: the worker, and their ids as a MessagePack array.
local OWNERS = ':owners'
-- Whose declarations are the newest, and when a worker last noted what it had not noted before.
local DECLARED, NOTED = ':declared', ':noted'

-- What it has one of for each job, worker, schedule, call or send.
local function job_key(q, id) return q.base .. ':job:' .. id end
local function body_key(q, id) return q.base .. ':body:' .. id end
local function held_key(q, worker) return q.base .. ':held:' .. worker end
local function cancel_key(q, worker) return q.base .. ':cancel:' .. worker end
local function schedule_key(q, id) return q.base .. ':schedule:' .. id end
local function receipt_key(q, call) return q.base .. ':receipt:' .. call end
-- What is left of a job whose record is deleted before its send is over: a send that is repeated, because the reply got
-- lost, finds it here. It is named by the nonce of the send, or by the job's id where only one send can have that id.
local function tombstone_key(q, nonce) return q.base .. ':tombstone:' .. nonce end

-- The streams of its lanes, first served first, and their consumer group; see lib/lanes.lua. `LANES` in
-- `aioq/store/redis/keys.py` is the same list, and says why there are two.
local LANES = {
  'high:front', 'high:rest', 'high', 'normal:front', 'normal:rest', 'normal', 'low:front', 'low:rest', 'low',
}
local GROUP, NORMAL = 'aioq', 'normal'
local function lane_key(q, lane) return q.base .. ':' .. lane end
local function front_of(lane) return lane .. ':front' end
local function rest_of(lane) return lane .. ':rest' end
local function is_front(lane) return string.sub(lane, -6) == ':front' end
local function is_rest(lane) return string.sub(lane, -5) == ':rest' end
-- The lane that a stream belongs to.
local function lane_of(stream) return string.match(stream, '^[^:]*') end

-- The channels of a worker: one for cancellations and ticks, one for direct dispatches. The channels of waiting processes
-- are named in the records.
local function worker_channel(q, worker) return q.base .. ':worker:' .. worker end
local function dispatch_channel(q, worker) return q.base .. ':dispatched:' .. worker end
