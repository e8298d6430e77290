-- Writes the outcomes of claimed jobs, and notifies their waiters. A job that is not this worker's under
-- this claim is left alone: that is the fence.
--
-- NEEDS: keys, msgpack, record_text_write, record_text_read, record, results, lanes, hooks, finish
-- USES: reads dead, job, schedule, scheduled; writes body, cancel, dead, held, idle, job, lanes, schedule, scheduled,
--   timers, tombstone; publishes waiter
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 dead ttl in ms, 3 dead limit, 4 ms a job is to be found after its send, 5 result ttl in ms, for
--   a job that was parked for too long, 6 ms to keep the results of those that just succeeded; 7
--   'idle' where the worker waits for jobs,
--   then four per job: id, claim, outcome, and '' where it succeeded and is kept for that long, else verb, delay in ms (of
--   a crash or a cut: most crashes a job may survive)
--   and ttl in ms, with spaces between them
-- REPLY: the positions (from 1) of the jobs that were refused
local worker, usual_ttl = ARGV[1], tonumber(ARGV[6])
local limits = {dead_ttl = tonumber(ARGV[2]), dead_limit = tonumber(ARGV[3]), tombstone = tonumber(ARGV[4])}
local ended = cmsgpack.pack(q.now)
local run_of, done_by = run_by(worker, RUNNING), run_by(worker, SUCCEEDED)

-- What the records of its first runs have behind SENT: as they run, and once they have succeeded. It is made once for
-- each claim, as a rule, for most of a batch were claimed together.
local of_claim, run, done
local function use_claim(claim)
  if claim == of_claim then return end
  local started = cmsgpack.pack(tonumber(claim))
  of_claim, run, done = claim, run_of .. started, done_by .. started
end

-- The usual settle: a result for a job in its first run. Writes it and returns its waiters, or false
-- for no waiter; nil for any other. `i` is where its arguments begin.
local function settle_first(i, id, text)
  local outcome = ARGV[i + 2]
  if not text or ARGV[i + 3] ~= '' or usual_ttl <= 0 or usual_ttl < limits.tombstone then return nil end
  if #outcome > BODY_LIMIT or string.find(id, '@', 1, true) then return nil end
  use_claim(ARGV[i + 1])
  local sent, waiters = read_first(text, run)
  if not sent then return nil end
  redis.call('SET', job_key(q, id), BEFORE_DONE .. sent .. done .. packed(outcome) .. ended, 'PX', usual_ttl)
  return waiters
end

local function wait_again()
  if ARGV[7] ~= '' then redis.pcall('ZADD', q.base .. IDLE, 'XX', q.now, worker) end
end

-- A lone job needs no tables. Its outcome is small enough for any notice, and the held set is written after the record.
local FIRST = 8
if #ARGV == FIRST + 3 then
  local id, outcome = ARGV[FIRST], ARGV[FIRST + 2]
  local text = redis.pcall('GET', job_key(q, id))
  local waiters = settle_first(FIRST, id, type(text) == 'string' and text)
  if waiters ~= nil then
    redis.call('SREM', held_key(q, worker), id)
    if waiters then Results.send(waiters, Results.message(1, Results.entry(id, outcome))) end
    wait_again()
    return {}
  end
end

local refused, settled, others = {}, {}, {}
-- The held set is written after the records: what is in it is looked up there.
local function finish_call()
  if #settled > 0 then redis.call('SREM', held_key(q, worker), unpack(settled)) end
  Results.publish(q)
  wait_again()
  return refused
end

local ids = {}
for i = 8, #ARGV, 4 do ids[#ids + 1] = ARGV[i] end
local texts = texts_of(q, ids)
for i = 8, #ARGV, 4 do
  local id = ARGV[i]
  local waiters = settle_first(i, id, texts[id])
  if waiters == nil then
    others[#others + 1] = i
  else
    settled[#settled + 1] = id
    Results.notify(q, id, waiters, ARGV[i + 2], true)
  end
  texts[id] = nil -- once more in the same call, it is to be seen as this one has left it
end
if #others == 0 then return finish_call() end

local result_ttl = tonumber(ARGV[5])

local function again(id, job, way, delay)
  if delay > 0 then
    run_hooks(q, 'back', id, job, way, q.now + delay)
    Lanes.schedule(q, id, q.now + delay, job[LANE] or nil)
    job[STATE], job[WORKER] = 'scheduled', false
    save(q, id, job)
  else
    Finish.give_back(q, id, job, way, false)
  end
end

-- A run that came to its own end, or was long: it ends what is counted in a row.
local function unpark(job)
  if job[PARKED] then job[PARKED] = false end
  if job[CUTS] then job[CUTS] = false end
end

local function count(job, field)
  widen(job, field)
  job[field] = (job[field] or 0) + 1
end

-- As in aioq/store/contract.py.
local MAX_CUTS = 10

local verbs = {}
function verbs.succeeded(id, job, outcome, _, ttl) Finish.finish(q, limits, id, job, 'succeeded', outcome, ttl) end
function verbs.cancelled(id, job, outcome, _, ttl) Finish.finish(q, limits, id, job, 'cancelled', outcome, ttl) end
function verbs.failed(id, job, outcome, _, ttl)
  count(job, ATTEMPTS)
  Finish.bury(q, limits, id, job, outcome, ttl)
end
function verbs.retry(id, job, outcome, delay)
  count(job, ATTEMPTS)
  job[OUTCOME] = outcome
  unpark(job)
  again(id, job, 'retry', delay)
end
-- A run of a worker that ended by itself: a crash, as the recovery counts one.
function verbs.crash(id, job, outcome, most, ttl)
  count(job, CRASHES)
  if job[CRASHES] > most then
    Finish.bury(q, limits, id, job, outcome, ttl)
  else
    Finish.give_back(q, id, job, 'crash', true)
  end
end
function verbs.cut(id, job, outcome, most, ttl)
  count(job, INTERRUPTIONS)
  count(job, CUTS)
  if job[CUTS] > MAX_CUTS then return verbs.crash(id, job, outcome, most, ttl) end
  Finish.give_back(q, id, job, 'cut', true)
end
function verbs.interrupt(id, job)
  count(job, INTERRUPTIONS)
  if job[CUTS] then job[CUTS] = false end
  Finish.give_back(q, id, job, 'interrupt', true)
end
function verbs.snooze(id, job, _, delay)
  unpark(job)
  again(id, job, 'snooze', delay)
end
function verbs.release(id, job) Finish.give_back(q, id, job, 'release', true) end
function verbs.park(id, job, outcome, delay, ttl)
  widen(job, PARKED)
  job[PARKED] = job[PARKED] or q.now
  if q.now - job[PARKED] >= ttl then
    Finish.bury(q, limits, id, job, outcome, result_ttl)
  else
    again(id, job, 'park', delay)
  end
end
-- What would run again but was cancelled meanwhile ends here, with the reason that `cancel` was given.
local by_request = {
  retry = true, snooze = true, interrupt = true, cut = true, crash = true, release = true, park = true, cancelled = true,
}

local function settle(id, job, how, outcome)
  local verb, delay, ttl = 'succeeded', '0', usual_ttl
  if how ~= '' then verb, delay, ttl = string.match(how, '^(%a+) (%d+) (%d+)$') end
  local reason = job[CANCEL]
  if reason and by_request[verb] then
    Finish.finish(q, limits, id, job, 'cancelled', reason, job[CANCEL_TTL])
  else
    verbs[verb](id, job, outcome, tonumber(delay), tonumber(ttl))
  end
  if reason then redis.call('SREM', cancel_key(q, worker), id) end
end

for _, i in ipairs(others) do
  local id, claim, outcome, how = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local job = load(q, id)
  local mine = job and job[WORKER] == worker and job[STARTED] == tonumber(claim)
  if mine and has_ended(job) then
    -- The same settle again, after a reply that got lost: done already, or all but what is deleted last.
    Finish.let_body_go(q, id, job, redis.call('PTTL', job_key(q, id)))
    settled[#settled + 1] = id
  elseif not mine or job[STATE] ~= 'running' then
    refused[#refused + 1] = i / 4 - 1
  else
    settled[#settled + 1] = id
    settle(id, job, how, outcome)
  end
end
finish_call()
if q.buried > 0 then Finish.trim_dead(q, limits) end
return refused
