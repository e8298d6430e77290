-- Gives back the jobs of a worker that has died, counting a crash for each, or of one that departs. Each call does
-- a bounded step: call again while there is more. The last step deregisters the worker and deletes its consumer.
-- If there is no worker to recover, dead jobs over the limit are dropped.
--
-- NEEDS: call, keys, record, results, lanes, standing, hooks, history, finish, leases, entries, newer
-- NEEDS: events
-- USES: reads batch, body, bucket, counters, cut, dead, flow, group, halted, held, holders, job, lanes, leases,
--   limits, schedule, scheduled, standing, timers, tokens, unique, watched, workers; writes about, batch, blocked,
--   body, bucket, cancel, counters, cut, dead, events, fetched, flowwork, group, held, history, holders, idle,
--   job, lanes, leases, leftovers, outbox, owners, schedule, scheduled, standing, stats, tasks, timers, tokens,
--   tombstone, unique, waiting, wakeable, workers; publishes dispatched, waiter
-- KEYS: 1 base key
-- ARGV: 1 'lapsed' for any worker whose lease has ended, 'dead' for a worker that is known to have died, whether
--   or not its lease has ended, 'departing' for a worker that departs;
--   2 the id of the departing worker, or the prefix of the ids of dead workers; 3 the most jobs in this step; 4
--   the most crashes that a job may survive; 5 the outcome of a job with more; 6 dead ttl in ms; 7 dead limit; 8
--   for how many ms after its send a job must be found; 9 result ttl in ms, for a job with too many crashes; 10
--   `about` of lib/history.lua; 11 the error of 5 in words; 12 the marks of lib/events.lua, '' for none; 13 where
--   to continue the search for a dead worker (0 to begin)
-- REPLY: {worker or '', jobs given back, 1 if there is more, where the next call continues the search if no worker
--   was found yet ('0' if nothing is left), ids of jobs that were dead-lettered ...}
local mode, worker, limit, max_crashes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local crashed = mode ~= 'departing'
-- The event that a worker leaves, by mode.
local LEFT = {lapsed = 'e', dead = 'd', departing = 'l'}
local limits = {dead_ttl = tonumber(ARGV[6]), dead_limit = tonumber(ARGV[7]), tombstone = tonumber(ARGV[8])}
-- The assumed length of a lease whose worker has not noted it, in ms: a day.
local LONGEST = 86400000
-- The most jobs of delivered entries that are given back in a step: each entry may name many.
local MOST = 2000
-- About how many workers are searched for a dead one in a call.
local LOOKED_AT = 5000

-- The next worker to recover, whether there may be another one after it, and where to continue the search.
local function find()
  if mode == 'lapsed' then
    local ended = redis.call('ZRANGEBYSCORE', q.base .. Keys.WORKERS, '-inf', '(' .. q.now, 'LIMIT', 0, 2)
    return ended[1], ended[2] ~= nil, '0'
  end
  local some = redis.call('ZSCAN', q.base .. Keys.WORKERS, ARGV[13], 'COUNT', LOOKED_AT)
  local following, members, found = some[1], some[2], nil
  for i = 1, #members, 2 do
    if string.sub(members[i], 1, #worker) == worker then
      if found then return found, true, '0' end
      found = members[i]
    end
  end
  return found, following ~= '0', found and '0' or following
end

local another, following = false, '0'
if crashed then
  if mode == 'lapsed' then Leases.cut(q, 0, LONGEST) end
  worker, another, following = find()
  if not worker then return {'', 0, mode == 'lapsed' and Finish.trim_dead(q, limits) and 1 or 0, following} end
  redis.call('ZADD', q.base .. Keys.WORKERS, Leases.RECOVERING, worker)
end
local reply = {worker, 0, 0, '0'}

-- Queues a job that the worker held. If it cannot be queued, because all keys of its lane hold another type, it is
-- put off and tried again later, so that it does not block the jobs after it.
local function queue_again(lane, id)
  local done, problem = pcall(Lanes.push, q, lane, id, true)
  if done then return end
  pass_over(problem)
  Newer.put_off(q, id)
end

-- Gives back or ends a job. If this version cannot read its record, the job is put off; whoever can read it later
-- sees that its worker is gone.
local function restore(id, job)
  if not job and Newer.state_of(q, id, redis.pcall('GET', Keys.job(q, id))) then Newer.put_off(q, id) end
  if not job or job[Field.WORKER] ~= worker then return end
  -- The call that has ended it may have failed half-way.
  if Record.has_ended(job) then Hooks.run(q, 'ended', id, job) end
  if job[Field.STATE] ~= 'running' then return end
  local crashes = (job[Field.CRASHES] or 0) + (crashed and 1 or 0)
  Record.widen(job, Field.CRASHES)
  job[Field.CRASHES] = crashes
  if crashed and not job[Field.CANCEL] then History.log_attempt(q, job, 'x', ARGV[5]) end
  if job[Field.CANCEL] then
    Finish.finish(q, limits, id, job, 'cancelled', job[Field.CANCEL], job[Field.CANCEL_TTL])
  elseif crashed and crashes > max_crashes then
    Finish.bury(q, limits, id, job, ARGV[5], tonumber(ARGV[9]))
    reply[#reply + 1] = id
  else
    Hooks.run(q, 'back', id, job, crashed and 'recover' or 'depart', q.now)
    queue_again(job[Field.LANE], id)
    job[Field.STATE], job[Field.WORKER] = false, false
    History.note_ready(q, job)
    Record.save(q, id, job)
    if crashed then History.note(q, id, 'x', nil, ARGV[5], History.task_of(q, id, job)) end
    reply[2] = reply[2] + 1
  end
end

local left = limit
-- If the key of the held set holds another type, the rest of the recovery and that of other workers must still go
-- on.
History.begin(q, ARGV[10], worker, nil, nil, {[ARGV[5]] = ARGV[11]})
local held = redis.pcall('SRANDMEMBER', Keys.held(q, worker), left)
if is_unreadable(held) then held = {} end
local jobs = Record.load_all(q, held)
local is_cut = false
local function restore_all()
  for _, id in ipairs(held) do
    is_cut = Results.is_full(q)
    if is_cut then break end
    restore(id, jobs[id])
    redis.call('SREM', Keys.held(q, worker), id)
    left = left - 1
  end
end
History.around(q, restore_all)


-- Entries that a blocking read has delivered to the worker, but that it has not claimed.
local named = 0
for _, name in ipairs(Keys.LANES) do
  if left <= 0 or is_cut then break end
  local lane = Keys.lane(q, name)
  local pending = redis.pcall('XPENDING', lane, Keys.GROUP, '-', '+', left, worker)
  if not is_unreadable(pending) then
    for _, entry in ipairs(pending) do
      is_cut = named >= MOST
      if is_cut then break end
      local body = redis.call('XRANGE', lane, entry[1], entry[1])
      local ids = body[1] and Entries.named_by(body[1]) or {}
      Hooks.run_returned(q, ids)
      for _, id in ipairs(ids) do queue_again(Keys.lane_of(name), id) end
      reply[2], named = reply[2] + #ids, named + #ids
      redis.call('XACK', lane, Keys.GROUP, entry[1])
      redis.call('XDEL', lane, entry[1])
      left = left - 1
    end
  end
end

if left <= 0 or is_cut then
  reply[3] = 1
else
  for _, name in ipairs(Keys.LANES) do
    redis.pcall('XGROUP', 'DELCONSUMER', Keys.lane(q, name), Keys.GROUP, worker)
  end
  redis.call('ZREM', q.base .. Keys.WORKERS, worker)
  -- A consumer that was delivered to after its worker had gone is no worker: FETCHED does not have it.
  local was_worker = redis.call('ZREM', q.base .. Keys.FETCHED, worker) == 1
  redis.pcall('HDEL', q.base .. Keys.LEASES, worker)
  redis.pcall('HDEL', q.base .. Keys.ABOUT, worker)
  redis.pcall('ZREM', q.base .. Keys.IDLE, worker)
  Standing.withdraw(q, worker)
  redis.pcall('HDEL', q.base .. Keys.OWNERS, worker)
  redis.call('UNLINK', Keys.held(q, worker), Keys.cancel(q, worker)) -- the second may be large
  if was_worker and Events.are_watched(q, ARGV[12]) then Events.add_worker(q, LEFT[mode], worker) end
  reply[3] = another and 1 or 0
end
Results.publish(q)
if q.buried > 0 then Finish.trim_dead(q, limits) end
return reply
