-- Handles what is due: queues scheduled jobs, and ends jobs that have expired or whose call is gone.
--
-- NEEDS: call, keys, record_text_read, record, results, lanes, timers, hooks, history, finish, due, newer, outbox
-- NEEDS: moves, limits, batches, waiting, rooms, limit_sweep
-- USES: reads batch, blocked, body, bucket, fetched, flow, group, halted, held, holders, job, lanes, leftovers,
--   limits, named, outbox, paused, places, schedule, scheduled, schedules, senders, standing, timers, tokens,
--   unique, waiting, workers; writes batch, blocked, body, bucket, counters, flowwork, group, history, holders,
--   idle, job, lanes, leftovers, limits, named, outbox, places, schedule, scheduled, senders, standing, stats,
--   tasks, timers, tokens, tombstone, unique, waiting, wakeable; publishes dispatched, room, waiter
-- KEYS: 1 base key
-- ARGV: 1 the most jobs in this step, and the most timers, 2 for how many ms after its send a job must be found, 3
--   result ttl in ms, for jobs that end here, 4 the outcome of a job that has expired, 5 that of a job whose call
--   is gone, 6 `about` of lib/history.lua, 7 the error of 4 in words, 8 that of 5
-- REPLY: {how many jobs and timers were handled, {ms until the next one is due, ms until the next tick} (-1 for
--   none), the last job whose record this version cannot read ('' for none), how many jobs have expired}; and, if
--   there is something that the caller is to do, {the queues to which it is to relay the outbox; of jobs that it
--   is to look for in other queues, each the id, the queue, and the send (`Outbox.send_of`); the bulk operations;
--   the flows in which it is to take a step}
local most, limits, result_ttl = tonumber(ARGV[1]), {tombstone = tonumber(ARGV[2])}, tonumber(ARGV[3])
local unreadable, looked_at, expired = '', 0, 0
History.begin(q, ARGV[6], '', nil, nil, {[ARGV[4]] = ARGV[7], [ARGV[5]] = ARGV[8]})

-- Puts off a timer of a kind that this version does not know, or whose job it cannot read: another worker may.
local function put_timer_off(timer) redis.call('ZADD', q.base .. Keys.TIMERS, q.now + Newer.PUT_OFF, timer) end

local timers = {}
-- For how long other workers leave a relay, or an operation, to the caller, in ms. If the caller dies, it is late
-- by that.
local HOLD = 5000
local relays, looks, operations, flows = {}, {}, {}, {}
-- By kind, what the caller is asked to do.
local asked = {[Timer.RELAY] = relays, [Timer.OPERATE] = operations, [Timer.FLOW] = flows}

-- Whether a job is here and waits to be run.
local function is_waiting(job)
  return job[Field.STATE] ~= 'running' and not Record.is_elsewhere(job) and not Record.has_ended(job)
end

-- By kind, what to do when a timer is due; each returns whether the timer is done.
timers[Timer.EXPIRE] = function(id, job)
  local expires = job[Field.EXTRA] and job[Field.EXTRA].expires
  if not expires or expires[3] or not is_waiting(job) then return true end
  if expires[1] > q.now then
    Timer.set(q, Timer.EXPIRE, id, expires[1])
    return false
  end
  Finish.finish(q, limits, id, job, 'cancelled', ARGV[4], result_ttl, {keeps_call = true})
  redis.call('ZREM', q.base .. Keys.SCHEDULED, id)
  expired = expired + 1
  return true
end
timers[Timer.CALL_GONE] = function(id, job)
  if not is_waiting(job) or Record.whole(q, id, job[Field.JOB]) then return true end
  job[Field.JOB] = false
  Finish.finish(q, limits, id, job, 'failed', ARGV[5], result_ttl)
  redis.call('ZREM', q.base .. Keys.SCHEDULED, id)
  return true
end
timers[Timer.LOOK] = function(id, job)
  if not Record.is_elsewhere(job) then return true end
  local move = Record.move_of(job)
  if job[Field.STATE] == 'moved' then
    local n = #looks
    looks[n + 1], looks[n + 2], looks[n + 3] = id, move[1], Outbox.send_of(job)
  elseif not redis.call('XRANGE', Keys.outbox(q, move[1]), move[2], move[2])[1] then
    -- The entry was evicted or deleted by hand.
    move[2] = Outbox.add(q, move[1], 'job', id)
    Record.save(q, id, job)
  end
  Moves.look_later(q, id, move)
  return false
end

timers[Timer.FOLLOW] = function(id, job)
  local lock = job[Field.EXTRA] and job[Field.EXTRA].unique
  if not lock or job[Field.STATE] ~= 'waiting' then
    Hooks.stop_following(q, id)
    return true
  end
  Hooks.follow(q, id)
  Waiting.look_at_follower(q, id, job)
  return false
end

-- Whether an entry is there already for jobs that wait for a batch, and stays there because the queue is paused.
local function is_held_back(id)
  if not redis.call('HGET', q.base .. Keys.PAUSED, 'queue') then return false end
  local due = Batches.due({id}, {[id] = Record.load(q, id)})
  return due and due + Batches.LOOK_AGAIN <= q.now
end

-- Puts an entry for jobs that wait for a batch into their lane; returns whether none waits. The timer is set
-- again, because the entry may get lost.
local function let_batch_run(name)
  local first = Batches.waiting(q, name, 1)[1]
  if not first then return true end
  if is_held_back(first) then
    Timer.set(q, Timer.BATCH, name, q.now + Batches.LOOK_AGAIN)
    return false
  end
  local lane = Batches.lane_of(name)
  local pushed, problem = pcall(Lanes.push, q, lane, Batches.MARK .. name, false)
  if pushed then Lanes.leave(q, lane, 1) else pass_over(problem) end -- it names no queued job
  Timer.set(q, Timer.BATCH, name, q.now + (pushed and Batches.LOOK_AGAIN or Newer.PUT_OFF))
  return false
end

local function handle(timer)
  looked_at = looked_at + 1
  local kind, id = string.match(timer, '^(%S+) (.*)$')
  if asked[kind] then
    redis.call('ZADD', q.base .. Keys.TIMERS, q.now + HOLD, timer)
    table.insert(asked[kind], id)
    return
  end
  if kind == Timer.BATCH then
    if let_batch_run(id) then redis.call('ZREM', q.base .. Keys.TIMERS, timer) end
    return
  end
  if kind == Timer.GROUP then
    Limits.wake(q, id)
    if not Limits.is_looked_at(q, id) then redis.call('ZREM', q.base .. Keys.TIMERS, timer) end
    return
  elseif kind == Timer.LIMIT then
    local cursor, name = string.match(id, '^(%S+) (.*)$')
    local following = Sweep.look_at_some(q, name, cursor)
    redis.call('ZREM', q.base .. Keys.TIMERS, timer)
    if following ~= '0' then Timer.set(q, Timer.LIMIT, following .. ' ' .. name, q.now) end
    return
  elseif kind == Timer.WAITING then
    local following = Waiting.look_at_some(q, id)
    redis.call('ZREM', q.base .. Keys.TIMERS, timer)
    if following ~= '0' then Timer.set(q, Timer.WAITING, following, q.now) end
    return
  end
  local text = id and redis.pcall('GET', Keys.job(q, id))
  local job = text and not is_unreadable(text) and Record.unpacked(text)
  if not timers[kind] or not job and text then
    if id then unreadable = id end
    put_timer_off(timer)
  elseif not job and kind == Timer.FOLLOW then
    Hooks.stop_following(q, id)
  elseif not job or timers[kind](id, job) then
    redis.call('ZREM', q.base .. Keys.TIMERS, timer)
  end
end

local due, has_timers = {}, false
for _, id in ipairs(redis.call('ZRANGEBYSCORE', q.base .. Keys.SCHEDULED, '-inf', q.now, 'LIMIT', 0, most)) do
  if id == Timer.FIRST then has_timers = true else due[#due + 1] = id end
end
if has_timers then
  local timers_due = redis.pcall('ZRANGEBYSCORE', q.base .. Keys.TIMERS, '-inf', q.now, 'LIMIT', 0, most)
  local function handle_all()
    for _, timer in ipairs(is_unreadable(timers_due) and {} or timers_due) do
      if Results.is_full(q) then break end -- the reply says that the next timer is due
      handle(timer)
    end
  end
  History.around(q, handle_all)
  local first = redis.pcall('ZRANGE', q.base .. Keys.TIMERS, 0, 0, 'WITHSCORES')
  if is_unreadable(first) or not first[1] then
    redis.call('ZREM', q.base .. Keys.SCHEDULED, Timer.FIRST)
  else
    redis.call('ZADD', q.base .. Keys.SCHEDULED, first[2], Timer.FIRST)
  end
end
local texts, changed, done = texts_of(q, due), {}, {}

-- Queues a job; returns false if a key of its lane holds another type. Then the job stays scheduled, and does not
-- delay others.
local function push_one(lane, id)
  local pushed, problem = pcall(Lanes.push, q, lane, id, false)
  if pushed then return true end
  pass_over(problem)
  redis.call('ZADD', q.base .. Keys.SCHEDULED, q.now + Newer.PUT_OFF, id)
  return false
end

-- Queues a job that is due; returns whether it is done. A job that is queued already, or is running without a
-- worker, was put off by a worker that could not read its record or could not queue it: it is in no lane.
local function queue(id, job)
  local state = job[Field.STATE]
  if state and state ~= 'scheduled' and not (state == 'running' and Newer.is_orphan(q, job)) then return true end
  if state == 'scheduled' then Hooks.run(q, 'back', id, job, 'promote', q.now) end
  local waits = state == 'scheduled' and Limits.goes_to_group(q, id, job)
  if waits then
    Limits.arrive(q, id, job[Field.LANE] or nil, job[Field.EXTRA], false)
  elseif not push_one(job[Field.LANE], id) then
    return false
  end
  if state == 'scheduled' then
    job[Field.STATE] = waits and 'waiting'
    History.note_ready(q, job)
    changed[#changed + 1], changed[#changed + 2] = id, job
  end
  return true
end

-- Puts off a job whose record this version cannot read. If it may be queued, it is also put into its lane, so that
-- claims of other workers meet it.
local function put_off_unreadable(id, text)
  local state, lane = Newer.state_of(q, id, text)
  if not state or Record.STATES[state] == Field.OUTCOME then return false end
  if state ~= 'scheduled' and state ~= 'waiting' then push_one(lane, id) end
  redis.call('ZADD', q.base .. Keys.SCHEDULED, q.now + Newer.PUT_OFF, id)
  unreadable = id
  return true
end

for _, id in ipairs(due) do
  local job = Record.unpacked(texts[id])
  if job and queue(id, job) or not job and not put_off_unreadable(id, texts[id]) then done[#done + 1] = id end
end
Record.save_all(q, changed)
if #done > 0 then redis.call('ZREM', q.base .. Keys.SCHEDULED, unpack(done)) end
Results.publish(q)
if looked_at > 0 then Rooms.tell(q) end
local reply = {#due + looked_at, Due.times(q), unreadable, expired}
if relays[1] or looks[1] or operations[1] or flows[1] then reply[5] = {relays, looks, operations, flows} end
return reply
