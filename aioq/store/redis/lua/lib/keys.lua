-- The names of all keys of a queue; `aioq/store/redis/keys.py` has them for Python, docs/design.md says what is in
-- them.
--
-- Each begins with the queue's base key, aioq:{app:queue}, so that all of them are in one cluster slot.
--
-- NEEDS: nothing

-- The suffixes of keys of which a queue has one.
local WORKERS = ':workers'
-- When each worker last fetched, and how long a lease of each is, in ms.
local FETCHED, LEASES = ':fetched', ':leases'
-- What each worker says of itself, as it has encoded it; see aioq/worker/about.py.
local ABOUT = ':about'
-- The workers that wait for jobs, by when they began to wait. After a direct dispatch the score is below zero
-- until the worker waits again. Every job that is queued in a lane deletes this key, because a direct dispatch
-- must not overtake that job. See enqueue_one.lua.
local IDLE = ':idle'
-- The workers that are to be woken by a message, by when they began to stand, and a key that exists as long as some
-- of them are; see lib/standing.lua.
local STANDING, WAKEABLE = ':standing', ':wakeable'
local SCHEDULED, DEAD = ':scheduled', ':dead'
-- Failed jobs that are too many for DEAD, by when they failed, as long as their records are kept.
local CUT = ':cut'
local TIMERS = ':timers'
-- What is paused; see lib/pauses.lua.
local PAUSED = ':paused'
-- By target, when its entries in the outbox were last read; by source, the last entry that was applied here.
local RELAYS, INBOX = ':relays', ':inbox'
-- What has happened to jobs that have not ended, and since when somebody listens to that; see lib/events.lua.
local EVENTS, LISTENING = ':events', ':listening'
-- What has ended, the counters of a queue, and the tasks that it has statistics of; see lib/history.lua.
local HISTORY, COUNTERS, TASKS = ':history', ':counters', ':tasks'
local SCHEDULES = ':schedules'
-- By worker, the ids of the schedules that its code declares, as a MessagePack array.
local OWNERS = ':owners'
-- The current declaration, and when a worker last noted a declaration that it had not noted before.
local DECLARED, NOTED = ':declared', ':noted'
-- Of the App: the bulk operations by when they began; see commands/operation_write.lua.
local OPERATIONS = ':operations'

-- The keys of which a queue has one for each job, worker, schedule, call or send.
local function job_key(q, id) return q.base .. ':job:' .. id end
local function body_key(q, id) return q.base .. ':body:' .. id end
local function log_key(q, id) return q.base .. ':log:' .. id end
local function held_key(q, worker) return q.base .. ':held:' .. worker end
local function cancel_key(q, worker) return q.base .. ':cancel:' .. worker end
-- What a worker has answered to a request.
local function answer_key(q, request) return q.base .. ':answer:' .. request end
-- The entries for another queue of the App; see lib/outbox.lua.
local function outbox_key(q, target) return q.base .. ':outbox:' .. target end
local function schedule_key(q, id) return q.base .. ':schedule:' .. id end
-- `name` is a minute or an hour and a task: `m29384756:shop.send`, `h489745:shop.send`.
local function stats_key(q, name) return q.base .. ':stats:' .. name end
local function receipt_key(q, call) return q.base .. ':receipt:' .. call end
-- Of the App, the record of a bulk operation; of a queue, how far the operation has come there.
local function operation_key(q, id) return q.base .. ':operation:' .. id end
-- The tombstone of a job whose record is deleted while its send may still be repeated. If the send is repeated
-- because its reply was lost, it finds the tombstone. The key is named by the nonce of the send, or by the job's
-- id if only one send can have that id.
local function tombstone_key(q, nonce) return q.base .. ':tombstone:' .. nonce end

-- The streams of the lanes, in the order in which they are served, and their consumer group; see lib/lanes.lua.
-- `LANES` in `aioq/store/redis/keys.py` is the same list, and says why there are two.
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

-- The channels of a worker: one for cancellations and ticks, one for direct dispatches. The channels of waiting
-- processes are in the records.
local function worker_channel(q, worker) return q.base .. ':worker:' .. worker end
local function dispatch_channel(q, worker) return q.base .. ':dispatched:' .. worker end
