-- Gives back what a worker held: one that died (a crash, which is counted), or one that departs.
-- Bounded: call again while there is more. The worker is forgotten, and its consumer deleted, with the last step. Where
-- there is no worker to recover, dead jobs over the limit are dropped.
--
-- NEEDS: call, keys, record, results, lanes, hooks, finish, leases, entries, foreign
-- USES: reads dead, held, job, lanes, leases, schedule, workers; writes body, cancel, dead, fetched, held, idle, job,
--   lanes, leases, owners, schedule, scheduled, timers, tombstone, workers; publishes waiter
-- KEYS: 1 base key
-- ARGV: 1 'lapsed' for some worker whose lease has ended, 'dead' for one that is known to have died whatever its
--   lease says, 'departing' for one that deregisters; 2 the departing worker's id, or what the ids of the dead begin
--   with; 3 the most jobs in this step; 4 most crashes a job may survive; 5 the outcome of a job over that; 6 dead ttl
--   in ms; 7 dead limit; 8 ms a job is to be found after its send; 9 result ttl in ms, for a job over max crashes;
--   10 where to go on looking for one that is known to have died (0 to begin)
-- REPLY: {worker or '', jobs given back, 1 if there is more, where the next call goes on looking where none was found yet
--   ('0' for nowhere), ids of jobs that were dead-lettered ...}
local mode, worker, limit, max_crashes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local crashed = mode ~= 'departing'
local limits = {dead_ttl = tonumber(ARGV[6]), dead_limit = tonumber(ARGV[7]), tombstone = tonumber(ARGV[8])}
-- How long a lease is taken for where that is not known, in ms: a day.
local LONGEST = 86400000
-- The most jobs of entries that were delivered: each of them may name many.
local MOST = 2000
-- About how many workers are looked at for one that is known to have died.
local LOOKED_AT = 5000

-- The next worker to recover, whether there is, or may be, another one after it, and where to go on looking.
local function find()
  if mode == 'lapsed' then
    local ended = redis.call('ZRANGEBYSCORE', q.base .. WORKERS, '-inf', '(' .. q.now, 'LIMIT', 0, 2)
    return ended[1], ended[2] ~= nil, '0'
  end
  local some = redis.call('ZSCAN', q.base .. WORKERS, ARGV[10], 'COUNT', LOOKED_AT)
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
  redis.call('ZADD', q.base .. WORKERS, RECOVERING, worker)
end
local reply = {worker, 0, 0, '0'}

-- Queues what the worker had. What cannot be queued, because a key of another type is in each place that it could be in,
-- does not keep back what comes after it: it is tried again as what is due.
local function queue_again(lane, id)
  local done, problem = pcall(Lanes.push, q, lane, id, true)
  if done then return end
  pass_over(problem)
  Foreign.put_off(q, id)
end

-- A record that this version cannot read belongs to no worker from now on; a later reader sees that it was this worker's.
local function restore(id, job)
  if not job and Foreign.state_of(q, id, redis.pcall('GET', job_key(q, id))) then Foreign.put_off(q, id) end
  if not job or job[WORKER] ~= worker or job[STATE] ~= 'running' then return end
  local crashes = (job[CRASHES] or 0) + (crashed and 1 or 0)
  widen(job, CRASHES)
  job[CRASHES] = crashes
  if job[CANCEL] then
    Finish.finish(q, limits, id, job, 'cancelled', job[CANCEL], job[CANCEL_TTL])
  elseif crashed and crashes > max_crashes then
    Finish.bury(q, limits, id, job, ARGV[5], tonumber(ARGV[9]))
    reply[#reply + 1] = id
  else
    run_hooks(q, 'back', id, job, crashed and 'recover' or 'depart', q.now)
    queue_again(job[LANE], id)
    job[STATE], job[WORKER] = false, false
    save(q, id, job)
    reply[2] = reply[2] + 1
  end
end

local left = limit
-- A key of another type in its place must not delay the jobs of this worker's lanes, and of all other workers.
local held = redis.pcall('SRANDMEMBER', held_key(q, worker), left)
if is_unreadable(held) then held = {} end
local jobs = load_all(q, held)
for _, id in ipairs(held) do
  restore(id, jobs[id])
  redis.call('SREM', held_key(q, worker), id)
  left = left - 1
end

-- Entries that a blocking read delivered to the worker, but that it never claimed.
local named, is_cut = 0, false
for _, name in ipairs(LANES) do
  if left <= 0 or is_cut then break end
  local lane = lane_key(q, name)
  local pending = redis.pcall('XPENDING', lane, GROUP, '-', '+', left, worker)
  if not is_unreadable(pending) then
    for _, entry in ipairs(pending) do
      is_cut = named >= MOST
      if is_cut then break end
      local body = redis.call('XRANGE', lane, entry[1], entry[1])
      local ids = body[1] and Entries.named_by(body[1]) or {}
      run_hooks_returned(q, ids)
      for _, id in ipairs(ids) do queue_again(lane_of(name), id) end
      reply[2], named = reply[2] + #ids, named + #ids
      redis.call('XACK', lane, GROUP, entry[1])
      redis.call('XDEL', lane, entry[1])
      left = left - 1
    end
  end
end

if left <= 0 or is_cut then
  reply[3] = 1
else
  for _, name in ipairs(LANES) do redis.pcall('XGROUP', 'DELCONSUMER', lane_key(q, name), GROUP, worker) end
  redis.call('ZREM', q.base .. WORKERS, worker)
  redis.call('ZREM', q.base .. FETCHED, worker)
  redis.pcall('HDEL', q.base .. LEASES, worker)
  redis.pcall('ZREM', q.base .. IDLE, worker)
  redis.pcall('HDEL', q.base .. OWNERS, worker)
  redis.call('UNLINK', held_key(q, worker), cancel_key(q, worker)) -- the second may be large
  reply[3] = another and 1 or 0
end
Results.publish(q)
if q.buried > 0 then Finish.trim_dead(q, limits) end
return reply
