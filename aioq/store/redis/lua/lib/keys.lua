-- The names of all keys of a queue; `aioq/store/redis/keys.py` has them for Python, docs/design.md says what is in
-- them.
--
-- Each begins with the queue's base key, aioq:{app:queue}, so that all of them are in one cluster slot.
--
-- NEEDS: nothing
local Keys = {}

-- The suffixes of keys of which a queue has one.
Keys.WORKERS = ':workers'
-- When each worker last fetched, and how long a lease of each is, in ms.
Keys.FETCHED, Keys.LEASES = ':fetched', ':leases'
-- What each worker says of itself, as it has encoded it; see aioq/worker/about.py.
Keys.ABOUT = ':about'
-- The workers that wait for jobs, by when they began to wait. After a direct dispatch the score is below zero
-- until the worker waits again. Every job that is queued in a lane deletes this key, because a direct dispatch
-- must not overtake that job. See lib/dispatch.lua.
Keys.IDLE = ':idle'
-- The workers that are to be woken by a message, by when they began to stand, and a key that exists as long as
-- some of them are; see lib/standing.lua.
Keys.STANDING, Keys.WAKEABLE = ':standing', ':wakeable'
Keys.SCHEDULED, Keys.DEAD = ':scheduled', ':dead'
-- Failed jobs that are too many for DEAD, by when they failed, as long as their records are kept.
Keys.CUT = ':cut'
Keys.TIMERS = ':timers'
-- The jobs that follow another one (lib/hooks.lua), wait in a group (lib/groups.lua) or for a batch.
Keys.WAITING = ':waiting'
-- The entries that have the tokens of groups; the numbers of limits, and until when limits and keys are paused.
-- See lib/groups.lua and lib/limit_numbers.lua.
Keys.TOKENS, Keys.LIMITS, Keys.HALTED = ':tokens', ':limits', ':halted'
-- The sends that wait for room, by when they came, and what is known of each; see lib/rooms.lua.
Keys.SENDERS, Keys.PLACES = ':senders', ':places'
-- How many ids the entries of each lane name beside those of its queued jobs; see lib/lanes.lua.
Keys.LEFTOVERS = ':leftovers'
-- What is paused; see lib/pauses.lua.
Keys.PAUSED = ':paused'
-- By target, when its entries in the outbox were last read; by source, the last entry that was applied here.
Keys.RELAYS, Keys.INBOX = ':relays', ':inbox'
-- What has happened to jobs that have not ended, to workers and to pauses; since when somebody listens to that of
-- jobs; and since when to the rest. See lib/events.lua.
Keys.EVENTS, Keys.LISTENING, Keys.WATCHED = ':events', ':listening', ':watched'
-- What has ended, the counters of a queue, and the tasks that it has statistics of; see lib/history.lua.
Keys.HISTORY, Keys.COUNTERS, Keys.TASKS = ':history', ':counters', ':tasks'
Keys.SCHEDULES = ':schedules'
-- The flows that have begun here; see lib/flows.lua.
Keys.FLOWS = ':flows'
-- By worker, the ids of the schedules that its code declares, as a MessagePack array.
Keys.OWNERS = ':owners'
-- The current declaration, and when a worker last noted a declaration that it had not noted before.
Keys.DECLARED, Keys.NOTED = ':declared', ':noted'
-- Of the App: the bulk operations by when they began; see commands/operation_write.lua.
Keys.OPERATIONS = ':operations'

-- Of an app-wide limiter, which has a slot of its own: all that is known of it, the processes that wait for a
-- place, and when jobs come back that wait no longer; see commands/limiter_take.lua.
Keys.LIMITER, Keys.ROW, Keys.SNOOZED = ':limiter', ':row', ':snoozed'

-- The keys of which a queue has one for each job, worker, schedule, call or send.
function Keys.job(q, id) return q.base .. ':job:' .. id end
function Keys.body(q, id) return q.base .. ':body:' .. id end
-- How many jobs the entries of a stream name, up to some of them; see lib/size.lua.
function Keys.named(q, stream) return q.base .. ':named:' .. stream end
function Keys.log(q, id) return q.base .. ':log:' .. id end
function Keys.held(q, worker) return q.base .. ':held:' .. worker end
function Keys.cancel(q, worker) return q.base .. ':cancel:' .. worker end
-- What a worker has answered to a request.
function Keys.answer(q, request) return q.base .. ':answer:' .. request end
-- The entries for another queue of the App; see lib/outbox.lua.
function Keys.outbox(q, target) return q.base .. ':outbox:' .. target end
function Keys.schedule(q, id) return q.base .. ':schedule:' .. id end
-- The jobs that wait for a batch, by when they were met; see lib/batches.lua.
function Keys.batch(q, name) return q.base .. ':batch:' .. name end
-- Who holds a unique key; see lib/unique.lua.
function Keys.unique(q, key) return q.base .. ':unique:' .. key end
-- The jobs that wait in a group; those that hold its permits; its bucket, where it has a rate; and of a limit, the
-- keys whose groups have jobs that wait, and no token.
function Keys.group(q, group) return q.base .. ':group:' .. group end
function Keys.holders(q, group) return q.base .. ':holders:' .. group end
function Keys.bucket(q, group) return q.base .. ':bucket:' .. group end
function Keys.blocked(q, limit) return q.base .. ':blocked:' .. limit end
-- `name` is a minute or an hour and a task: `m29384756:shop.send`, `h489745:shop.send`.
function Keys.stats(q, name) return q.base .. ':stats:' .. name end
function Keys.receipt(q, call) return q.base .. ':receipt:' .. call end
-- Of the App, the record of a bulk operation; of a queue, how far the operation has come there.
function Keys.operation(q, id) return q.base .. ':operation:' .. id end
-- Of a flow, what is known of it, the parts of its definition, the states of its nodes, and what is to be done in
-- it; see lib/flows.lua.
function Keys.flow(q, id) return q.base .. ':flow:' .. id end
function Keys.flow_parts(q, id) return q.base .. ':flowparts:' .. id end
function Keys.flow_states(q, id) return q.base .. ':flowstates:' .. id end
function Keys.flow_work(q, id) return q.base .. ':flowwork:' .. id end
-- The tombstone of a job whose record is deleted while its send may still be repeated. If the send is repeated
-- because its reply was lost, it finds the tombstone. The key is named by the nonce of the send, or by the job's
-- id if only one send can have that id.
function Keys.tombstone(q, nonce) return q.base .. ':tombstone:' .. nonce end

-- The streams of the lanes, in the order in which they are served, and their consumer group; see lib/lanes.lua.
-- `LANES` in `aioq/store/redis/keys.py` is the same list, and says why there are two.
Keys.LANES = {
  'high:front', 'high:rest', 'high', 'normal:front', 'normal:rest', 'normal', 'low:front', 'low:rest', 'low',
}
Keys.GROUP, Keys.NORMAL = 'aioq', 'normal'
function Keys.lane(q, lane) return q.base .. ':' .. lane end
function Keys.front_of(lane) return lane .. ':front' end
function Keys.rest_of(lane) return lane .. ':rest' end
function Keys.is_front(lane) return string.sub(lane, -6) == ':front' end
function Keys.is_rest(lane) return string.sub(lane, -5) == ':rest' end
-- The stream of what was set aside of another one because its task is paused; see lib/pauses.lua. Nothing is set
-- aside of `rest`.
function Keys.aside_of(stream) return 'aside-' .. stream end
Keys.ASIDE = {
  Keys.aside_of('high:front'), Keys.aside_of('high'), Keys.aside_of('normal:front'), Keys.aside_of('normal'),
  Keys.aside_of('low:front'), Keys.aside_of('low'),
}
-- The lane that a stream belongs to.
function Keys.lane_of(stream) return string.match(stream, '^[^:]*') end

-- The channels of a worker: one for cancellations and ticks, one for direct dispatches. The channels of waiting
-- processes are in the records.
function Keys.worker_channel(q, worker) return q.base .. ':worker:' .. worker end
function Keys.dispatch_channel(q, worker) return q.base .. ':dispatched:' .. worker end
-- The channel of a process whose sends wait for room.
function Keys.room_channel(q, process) return q.base .. ':room:' .. process end
-- Of a limiter, the channel of a process that waits for a place.
function Keys.permit_channel(q, process) return q.base .. ':permit:' .. process end
