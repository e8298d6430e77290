-- Makes the jobs of due ticks and sets the next ticks; each schedule in one step, and only if its revision is
-- still the one that the caller has read. A job whose id exists already is not added again.
--
-- NEEDS: call, keys, record, lanes, hooks, history, events, overlap, due, newer, unique, series, size, rooms
-- NEEDS: limits
-- USES: reads batch, bucket, counters, flow, group, halted, holders, job, lanes, leftovers, limits, listening,
--   named, places, schedule, scheduled, schedules, senders, standing, timers, tokens, unique, waiting; writes
--   batch, blocked, body, bucket, counters, events, flowwork, group, holders, idle, job, lanes, leftovers, limits,
--   named, outbox, places, schedule, scheduled, schedules, senders, standing, stats, timers, tokens, unique,
--   waiting, wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 the marks of lib/events.lua, '' for none; and if the queue has a bound, a blank and how many jobs may be
--   in it; then six per schedule: id, revision, next tick in ms since the
--   epoch ('' for none), overlap, the most runs (0 for no limit), and its jobs as a MessagePack array with four
--   items for each: id, tick, due time, call ('' for the schedule's)
-- REPLY: {ms until the queue's first tick (-1 for none), and per schedule the number of jobs made: -1 if its
--   revision has changed, -2 if a key that the tick must write holds another type}
local marks, most = string.match(ARGV[1], '^(%a*) ?(%d*)$')
local reply, made_ids, made_calls, size = {0}, {}, {}, nil

-- Whether a job exists and has not ended.
local function unfinished(id)
  local job = Newer.read(q, id)
  return job and not Record.has_ended(job)
end

local function add(id, envelope, schedule_fields, due, held, extra)
  local lane = schedule_fields.lane
  if redis.call('EXISTS', Keys.job(q, id)) == 1 then return end
  -- What makes the job found is written first: if that fails, the tick is made again, and the job's id is still
  -- free.
  local later = not held and due > q.now
  local waits = not later and not held and extra and extra.limits
  if later then
    Lanes.schedule(q, id, due, lane)
  elseif waits then
    Limits.arrive(q, id, lane, extra, false)
  elseif not held then
    Lanes.push(q, lane, id, false)
  end
  local state = (held or waits) and 'waiting' or later and 'scheduled'
  local job = Record.new(q, id, envelope ~= '' and envelope or schedule_fields.envelope, lane, nil, state)
  if extra then
    Record.widen(job, Field.EXTRA)
    job[Field.EXTRA] = extra
    -- An EXTRA of a newer version may have keys that this one does not know: then the job is left to that version.
    if Record.is_record(job) then Hooks.run(q, 'enter', id, job, due) end
  end
  Record.save(q, id, job)
  if extra and extra.unique then Unique.count_from_now(q, id, extra.unique) end
  made_ids[#made_ids + 1] = id
  made_calls[#made_calls + 1] = envelope ~= '' and envelope or schedule_fields.envelope
end

-- Decides about a tick's job with a unique key: returns whether it may be made, and whether it is to follow the
-- job that holds the key (`latest`). A job in whose place it would come has the same arguments, so it is left
-- alone.
local function hold_key(job_id, lock, due)
  if redis.call('EXISTS', Keys.job(q, job_id)) == 1 then return true, false end
  local owner, job, following, is_timed = Unique.owner(q, job_id, lock)
  if not owner then
    Unique.take(q, job_id, lock, true)
    return true, false
  end
  if lock[3] ~= 'latest' or is_timed or not job or job[Field.STATE] ~= 'running' then return false end
  if following and following ~= job_id and Unique.is_alive(q, lock[1], following) then return false end
  lock[5] = due
  Unique.note(q, lock[1], owner, job_id)
  Hooks.follow(q, job_id)
  return true, true
end

-- The same for a debounced task: a tick is a call as any other. Also returns when its job is due.
local function join_series(s, job_id, extra, due, envelope)
  if redis.call('EXISTS', Keys.job(q, job_id)) == 1 then return true, due end
  local new = {envelope = envelope ~= '' and envelope or s.envelope, lane = s.lane, extra = extra}
  new.due = math.max(due, q.now) + extra.unique[7]
  return Series.place(q, job_id, new, {}) == job_id, new.due
end

-- Whether the queue has no room for the job of a tick; as in enqueue.lua.
local function is_full(job_id, extra)
  if most == '' then return false end
  -- Sends that wait for room come first.
  size = size or tonumber(most) - Rooms.left(q, '', tonumber(most) - Size.of(q))
  if size < tonumber(most) or redis.call('EXISTS', Keys.job(q, job_id)) == 1 then return false end
  return not (extra and extra.unique and Unique.adds_none(q, job_id, extra.unique, {}))
end

-- Makes one tick, following `overlap`; returns whether a job was made.
local function make(s, job_id, due, envelope, overlap)
  local busy = overlap ~= 'allow' and s.current and unfinished(s.current)
  if not busy and s.held and unfinished(s.held) then
    -- The current job has ended without an end being written: its record was evicted or deleted by hand. The job
    -- that was held back for it is released now, and is the current one for this tick.
    redis.call('HSET', s.key, 'current', s.current, 'held', s.held)
    Overlap.let_next(q, s.current)
    s.current, s.held, busy = s.held, nil, overlap ~= 'allow'
  end
  if busy and (overlap == 'skip' or (s.held and unfinished(s.held))) then
    s.skipped = s.skipped + 1
    return false
  end
  local extra, is_free, follows = s.extra and cmsgpack.unpack(s.extra), true, false
  if is_full(job_id, extra) then
    is_free = false
  elseif extra and Series.is_one(extra.unique) then
    is_free, due = join_series(s, job_id, extra, due, envelope)
  elseif extra and extra.unique then
    is_free, follows = hold_key(job_id, extra.unique, due)
  end
  if not is_free then
    s.skipped = s.skipped + 1
    return false
  end
  add(job_id, envelope, s, due, busy or follows, extra)
  if busy then s.held = job_id else s.current, s.held = job_id, nil end
  s.runs = s.runs + 1
  if size then size = size + 1 end
  return true
end

local function tick(id, following, overlap, limit, jobs)
  local key = Keys.schedule(q, id)
  local found = redis.call('HMGET', key, 'job', 'lane', 'runs', 'skipped', 'current', 'held', 'extra')
  local s = {key = key, envelope = found[1], lane = found[2] ~= '' and found[2] or nil,
    runs = tonumber(found[3]) or 0, skipped = tonumber(found[4]) or 0,
    current = found[5] or nil, held = found[6] or nil,
    extra = found[7] or nil}
  local made = 0
  for j = 1, #jobs, 4 do
    if limit > 0 and s.runs >= limit then break end
    if make(s, jobs[j], jobs[j + 2], jobs[j + 3], overlap) then
      made = made + 1
      redis.call('HSET', key, 'last', jobs[j + 1], 'last_job', jobs[j])
    end
  end
  if limit > 0 and s.runs >= limit then following = '' end
  -- The index is written first. If the next command fails, the schedule still has its old tick, so that tick is
  -- made again, and the ids of its jobs exist already. In the other order the index would have a due time whose
  -- tick is still to come.
  redis.call('ZADD', q.base .. Keys.SCHEDULES, following == '' and '+inf' or following, id)
  redis.call('HSET', key, 'next', following, 'runs', s.runs, 'skipped', s.skipped)
  if s.current then redis.call('HSET', key, 'current', s.current) end
  if s.held then redis.call('HSET', key, 'held', s.held) else redis.call('HDEL', key, 'held') end
  redis.call('HINCRBY', key, 'rev', 1)
  return made
end

-- Ticks one schedule. If a key holds another type, only this schedule fails, and not the others.
local function attempt(...)
  local done, made = pcall(tick, ...)
  if done then return made end
  pass_over(made)
  return -2
end

local made_in_all = 0
for i = 2, #ARGV, 6 do
  local made = -1
  local found = redis.pcall('HMGET', Keys.schedule(q, ARGV[i]), 'rev')
  if not is_unreadable(found) and found[1] == ARGV[i + 1] then
    made = attempt(ARGV[i], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4]), cmsgpack.unpack(ARGV[i + 5]))
  end
  reply[#reply + 1] = made
  made_in_all = made_in_all + math.max(made, 0)
end
if string.find(marks, 's', 1, true) then History.count_sent(q, made_in_all) end
if Events.are_recorded(q, marks) then Events.add_calls(q, 'q', '', made_ids, made_calls) end
reply[1] = Due.until_first(q, q.base .. Keys.SCHEDULES)
return reply
