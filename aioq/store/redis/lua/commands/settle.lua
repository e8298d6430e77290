-- Settles claimed jobs: writes their outcomes and notifies their waiters, or queues them again. A job that this
-- worker does not hold under this claim is not changed: that is the fence.
--
-- NEEDS: keys, msgpack, record_text_write, record_text_read, record_text_unique, record_text_limited, record
-- NEEDS: results, lanes, hooks, history, finish, limits
-- USES: reads batch, body, bucket, cut, dead, flow, group, halted, holders, job, lanes, limits, schedule,
--   scheduled, standing, timers, tokens, unique; writes batch, blocked, body, bucket, cancel, counters, cut, dead,
--   flowwork, group, held, history, holders, idle, job, lanes, leftovers, outbox, schedule, scheduled, standing,
--   stats, tasks, timers, tokens, tombstone, unique, waiting, wakeable; publishes dispatched, waiter
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 dead ttl in ms, 3 dead limit, 4 for how many ms after its send a job must be found, 5 result
--   ttl in ms, for a job that was parked for too long, 6 the usual ttl in ms, 7 'idle' if the worker waits for
--   jobs, else '', 8 `about` of lib/history.lua, '' for none, 9 `rows` of it, 10 `counts` of it, then four per
--   job: id, claim, outcome, and '' if it succeeded and has the usual ttl. Else the fourth is the verb, the delay
--   in ms (for a crash or a cut: the most crashes that a job may survive) and the ttl in ms, separated by spaces
-- REPLY: the positions (from 1) of the jobs that were refused; below zero, those of jobs that are left for another
--   call, because this one already notifies too many processes
local worker, usual_ttl = ARGV[1], tonumber(ARGV[6])
local limits = {dead_ttl = tonumber(ARGV[2]), dead_limit = tonumber(ARGV[3]), tombstone = tonumber(ARGV[4])}
local ended = cmsgpack.pack(q.now)
local run_of, done_by = run_by(worker, RUNNING), run_by(worker, SUCCEEDED)

-- The part after SENT of the records of first runs: while they run (`run`), and once they have succeeded (`done`).
-- It is made once for each claim. Most jobs of a batch were claimed together, so that is usually once.
local of_claim, run, done, unwatched_run
local function use_claim(claim)
  if claim == of_claim then return end
  local started = cmsgpack.pack(tonumber(claim))
  of_claim, run, done = claim, run_of .. started, done_by .. started
  unwatched_run = run .. UNWATCHED
end

-- Whether a job has succeeded in the usual way. `i` is where its arguments begin, `text` its record.
local function is_usual(i, id, text)
  if not text or ARGV[i + 3] ~= '' or usual_ttl <= 0 or usual_ttl < limits.tombstone then return false end
  return #ARGV[i + 2] <= BODY_LIMIT and not string.find(id, '@', 1, true)
end
local function write_done(i, id, before, sent, after)
  local record = before .. sent .. done .. packed(ARGV[i + 2]) .. ended .. after
  redis.call('SET', Keys.job(q, id), record, 'PX', ARGV[6]) -- a number is slow to pass
end

-- The usual settle: a plain job has succeeded in its first run. Writes its record and returns its waiters, or
-- false for none. Returns nil for any other settle, and writes nothing.
local function settle_first(i, id, text)
  if not is_usual(i, id, text) then return nil end
  use_claim(ARGV[i + 1])
  local sent, waiters = read_first(text, run)
  if not sent then return nil end
  write_done(i, id, BEFORE_DONE, sent, '')
  return waiters
end

local function wait_again()
  if ARGV[7] ~= '' then redis.pcall('ZADD', q.base .. Keys.IDLE, 'XX', q.now, worker) end
end

-- One job alone needs no tables; docs/design.md, "Commands are functions of the server if it has any". Its outcome
-- is small enough for a result message. The held set is written after the record.
local FIRST = 11
local lone, lone_text = #ARGV == FIRST + 3 and ARGV[FIRST], nil
local function end_lone(waiters)
  History.begin(q, ARGV[8], worker, {lone}, ARGV[9])
  History.note_succeeded(q, {'s'}, 1, '')
  History.write(q)
  redis.call('SREM', Keys.held(q, worker), lone)
  if waiters then Results.send(waiters, Results.message(1, Results.entry(lone, ARGV[FIRST + 2]))) end
  wait_again()
  return {}
end
if lone then
  lone_text = redis.pcall('GET', Keys.job(q, lone))
  lone_text = type(lone_text) == 'string' and lone_text
  local waiters = settle_first(FIRST, lone, lone_text)
  if waiters ~= nil then return end_lone(waiters) end
end

-- The same as `settle_first` for a job that has nothing but a unique key, or limits, in EXTRA; also returns what
-- is to be given back: the key, or nil, and the limits. It is not above, for a script would make all that it needs
-- there for each plain job.
local function settle_first_with_extra(i, id, text)
  if not is_usual(i, id, text) then return nil end
  use_claim(ARGV[i + 1])
  if string.find(text, LimitText.OF_OTHERS, 1, true) then
    local sent, waiters, after = LimitText.read_first(text, unwatched_run)
    local uses = sent and Numbers.uses_in(q, after)
    if not uses then return nil end
    write_done(i, id, LimitText.BEFORE_DONE, sent, LimitText.AFTER_DONE .. after)
    return waiters, nil, uses
  end
  local sent, waiters, after, key = UniqueText.read_first(text, unwatched_run)
  if not sent then return nil end
  write_done(i, id, UniqueText.BEFORE_DONE, sent, after)
  return waiters, key, nil
end
if lone then
  local waiters, key, uses = settle_first_with_extra(FIRST, lone, lone_text)
  if key then Hooks.give_back_all(q, {lone}, {key}) end
  if uses then Limits.give_back(q, lone, uses) end
  if waiters ~= nil then return end_lone(waiters) end
end

local refused, settled, others = {}, {}, {}
-- The held set is written after the records, because a recovery finds the records by it.
local function finish_call()
  if #settled > 0 then redis.call('SREM', Keys.held(q, worker), unpack(settled)) end
  Results.publish(q)
  wait_again()
  return refused
end

local ids = {}
for i = 11, #ARGV, 4 do ids[#ids + 1] = ARGV[i] end
History.begin(q, ARGV[8], worker, ids, ARGV[9])
local texts, is_full = texts_of(q, ids), false
Limits.begin_settle(q)
local ends = {} -- of those that have succeeded, by position
local owners, keys = {}, {} -- of those that have a unique key
local function position(i) return (i - FIRST) / 4 + 1 end
local function leave(i) refused[#refused + 1] = -position(i) end
for at, id in ipairs(ids) do
  local i = FIRST + 4 * (at - 1)
  if is_full then
    leave(i)
  else
    local waiters, key, uses = settle_first(i, id, texts[id]), nil, nil
    if waiters == nil then waiters, key, uses = settle_first_with_extra(i, id, texts[id]) end
    if uses then Limits.give_back(q, id, uses) end
    if waiters == nil then
      others[#others + 1] = i
    else
      settled[#settled + 1], ends[at] = id, 's'
      if key then owners[#owners + 1], keys[#keys + 1] = id, key end
    end
    if waiters then
      Results.notify(q, id, waiters, ARGV[i + 2], true)
      is_full = Results.is_full(q)
    end
  end
  texts[id] = nil -- if the id comes again in this call, its record is not the same any more
end
if keys[1] then Hooks.give_back_all(q, owners, keys) end
History.note_succeeded(q, ends, #settled, #settled == #ids and ARGV[10] or '')
if #others == 0 then
  Limits.end_settle(q)
  History.write(q)
  return finish_call()
end

local result_ttl = tonumber(ARGV[5])

local function run_again(id, job, way, delay)
  if delay > 0 then
    Hooks.run(q, 'back', id, job, way, q.now + delay)
    Lanes.schedule(q, id, q.now + delay, job[Field.LANE] or nil)
    job[Field.STATE], job[Field.WORKER] = 'scheduled', false
    Record.save(q, id, job)
  else
    Finish.give_back(q, id, job, way, false)
  end
end

-- Resets the counts of consecutive parkings and cuts: this run has come to its own end.
local function unpark(job)
  if job[Field.PARKED] then job[Field.PARKED] = false end
  if job[Field.CUTS] then job[Field.CUTS] = false end
end

local function count(job, field)
  Record.widen(job, field)
  job[field] = (job[field] or 0) + 1
end

-- The same as in aioq/store/contract.py.
local MAX_CUTS = 10

-- What each verb does with a job; `at` is the job's position in this call.
local verbs = {}
function verbs.succeeded(id, job, outcome, _, ttl, at)
  Finish.finish(q, limits, id, job, 'succeeded', outcome, ttl, {at = at})
end
function verbs.cancelled(id, job, outcome, _, ttl, at)
  Finish.finish(q, limits, id, job, 'cancelled', outcome, ttl, {at = at})
end
function verbs.failed(id, job, outcome, _, ttl, at)
  count(job, Field.ATTEMPTS)
  History.log_attempt(q, job, 'f', outcome, at)
  Finish.bury(q, limits, id, job, outcome, ttl, {at = at})
end
function verbs.retry(id, job, outcome, delay, _, at)
  -- No further attempt is made if another job waits to take its place.
  if Hooks.is_followed(q, id, job) then return verbs.failed(id, job, outcome, delay, result_ttl, at) end
  count(job, Field.ATTEMPTS)
  History.log_attempt(q, job, 'r', outcome, at)
  job[Field.OUTCOME] = outcome
  unpark(job)
  run_again(id, job, 'retry', delay)
  History.note(q, id, 'r', at)
end
-- The worker has ended by itself during the run: that counts as a crash, as in a recovery.
function verbs.crash(id, job, outcome, most, ttl, at)
  count(job, Field.CRASHES)
  History.log_attempt(q, job, 'x', outcome, at)
  if job[Field.CRASHES] > most then
    Finish.bury(q, limits, id, job, outcome, ttl, {at = at})
  else
    Finish.give_back(q, id, job, 'crash', true)
    History.note(q, id, 'x', at)
  end
end
function verbs.cut(id, job, outcome, most, ttl, at)
  count(job, Field.INTERRUPTIONS)
  count(job, Field.CUTS)
  if job[Field.CUTS] > MAX_CUTS then return verbs.crash(id, job, outcome, most, ttl, at) end
  Finish.give_back(q, id, job, 'cut', true)
end
function verbs.interrupt(id, job)
  count(job, Field.INTERRUPTIONS)
  if job[Field.CUTS] then job[Field.CUTS] = false end
  Finish.give_back(q, id, job, 'interrupt', true)
end
function verbs.snooze(id, job, _, delay)
  unpark(job)
  run_again(id, job, 'snooze', delay)
end
function verbs.release(id, job) Finish.give_back(q, id, job, 'release', true) end
function verbs.park(id, job, outcome, delay, ttl, at)
  Record.widen(job, Field.PARKED)
  job[Field.PARKED] = job[Field.PARKED] or q.now
  if q.now - job[Field.PARKED] >= ttl then
    Finish.bury(q, limits, id, job, outcome, result_ttl, {at = at})
  else
    run_again(id, job, 'park', delay)
  end
end
-- A job that was cancelled meanwhile, and is settled with one of these verbs, ends here with the outcome given to
-- `cancel`.
local by_request = {
  retry = true, snooze = true, interrupt = true, cut = true, crash = true, release = true, park = true,
  cancelled = true,
}

local function settle(id, job, how, outcome, at)
  local verb, delay, ttl = 'succeeded', '0', usual_ttl
  if how ~= '' then verb, delay, ttl = string.match(how, '^(%a+) (%d+) (%d+)$') end
  local reason = job[Field.CANCEL]
  if reason and by_request[verb] then
    Finish.finish(q, limits, id, job, 'cancelled', reason, job[Field.CANCEL_TTL], {at = at})
  else
    verbs[verb](id, job, outcome, tonumber(delay), tonumber(ttl), at)
  end
  if reason then redis.call('SREM', Keys.cancel(q, worker), id) end
end

local function settle_other(i)
  local id, claim, outcome, how = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local job = Record.load(q, id)
  local mine = job and job[Field.WORKER] == worker and job[Field.STARTED] == tonumber(claim)
  if mine and Record.has_ended(job) then
    -- The same settle again, after a lost reply: all is done already, except perhaps what comes last.
    Finish.expire_body(q, id, job, redis.call('PTTL', Keys.job(q, id)))
    if Use.of(job) then Limits.give_back(q, id, Use.of(job)) end
    settled[#settled + 1] = id
  elseif not mine or job[Field.STATE] ~= 'running' then
    refused[#refused + 1] = position(i)
  else
    settled[#settled + 1] = id
    settle(id, job, how, outcome, position(i))
  end
end
local function settle_others()
  for _, i in ipairs(others) do
    if Results.is_full(q) then leave(i) else settle_other(i) end
  end
end
-- What the jobs give back is given to others at once, also if a command for a later job fails.
local function settle_all()
  local is_done, problem = pcall(settle_others)
  Limits.end_settle(q)
  if not is_done then error(problem, 0) end
end
History.around(q, settle_all)
finish_call()
if q.buried > 0 then Finish.trim_dead(q, limits) end
return refused
