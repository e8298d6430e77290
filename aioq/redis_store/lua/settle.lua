-- Writes what became of claimed jobs, and tells those who wait for them. A job that is not this worker's under
-- this claim is left alone: that is the fence.
--
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 dead ttl in ms, 3 dead limit, 4 ms a job is to be found after its send, 5 result ttl in ms, for
--   a job that was parked for too long, then six per job: id, claim, verb, outcome, delay ms, ttl ms
-- REPLY: the positions (from 1) of the jobs that were refused
local worker, dead_ttl, dead_limit, result_ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5])
local refused, settled = {}, {}
tombstone = tonumber(ARGV[4])

local function again(id, lane, delay)
  if delay > 0 then
    schedule(id, now + delay, lane or nil)
    redis.call('HSET', job_key(id), 'state', 'scheduled')
    redis.call('HDEL', job_key(id), 'worker')
  else
    give_back(id, lane, false)
  end
end

local verbs = {}
function verbs.succeeded(id, _, outcome, _, ttl, job) finish(id, 'succeeded', outcome, ttl, job[5]) end
function verbs.cancelled(id, _, outcome, _, ttl, job) finish(id, 'cancelled', outcome, ttl, job[5]) end
function verbs.failed(id, _, outcome, _, ttl, job)
  redis.call('HINCRBY', job_key(id), 'attempts', 1)
  bury(id, outcome, ttl, job[5], dead_ttl, dead_limit)
end
function verbs.retry(id, key, outcome, delay, _, job)
  redis.call('HINCRBY', key, 'attempts', 1)
  redis.call('HSET', key, 'outcome', outcome)
  redis.call('HDEL', key, 'parked')
  again(id, job[4], delay)
end
function verbs.interrupt(id, key, _, _, _, job)
  redis.call('HINCRBY', key, 'interruptions', 1)
  give_back(id, job[4], true)
end
function verbs.snooze(id, key, _, delay, _, job)
  redis.call('HDEL', key, 'parked')
  again(id, job[4], delay)
end
function verbs.release(id, _, _, _, _, job) give_back(id, job[4], true) end
function verbs.park(id, key, outcome, delay, ttl, job)
  redis.call('HSETNX', key, 'parked', now)
  if now - redis.call('HGET', key, 'parked') >= ttl then
    bury(id, outcome, result_ttl, job[5], dead_ttl, dead_limit)
  else
    again(id, job[4], delay)
  end
end
-- What would run again but was cancelled meanwhile ends here, with the reason that `cancel` was given.
local by_request = {retry = true, snooze = true, interrupt = true, release = true, park = true, cancelled = true}

for i = 6, #ARGV, 6 do
  local id, verb = ARGV[i], ARGV[i + 2]
  local key = job_key(id)
  local job = redis.pcall('HMGET', key, 'worker', 'claim', 'state', 'lane', 'waiters', 'cancel')
  local mine = not is_unreadable(job) and job[1] == worker and job[2] == ARGV[i + 1]
  if mine and (job[3] == 'succeeded' or job[3] == 'failed' or job[3] == 'cancelled') then
    -- The same settle again, after a reply that got lost: done already. Or it failed before the record was told when
    -- to go.
    if redis.call('PTTL', key) < 0 then expire(id, tonumber(ARGV[i + 5])) end
    redis.call('SREM', held_key(worker), id)
  elseif not mine or job[3] ~= 'running' then
    refused[#refused + 1] = i / 6
  else
    settled[#settled + 1] = id
    if job[6] and by_request[verb] then
      finish(id, 'cancelled', job[6], tonumber(redis.call('HGET', key, 'cancel_ttl')), job[5])
    else
      verbs[verb](id, key, ARGV[i + 3], tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5]), job)
    end
    if job[6] then redis.call('SREM', cancel_key(worker), id) end
  end
end
if #settled > 0 then redis.call('SREM', held_key(worker), unpack(settled)) end
publish()
return refused
