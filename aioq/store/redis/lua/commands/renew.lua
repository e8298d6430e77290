-- Takes or prolongs a worker's lease, and notes when the worker last got an answer to its fetching: a worker whose
-- lease holds is alive, one that fetches does its work.
--
-- NEEDS: call, keys, leases, due
-- USES: reads cancel, dead, fetched, held, lanes, leases, scheduled, schedules, workers; writes fetched, lanes, leases,
--   workers
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 lease in ms, 3 how many ms ago it last fetched, 4 the most dead jobs, 5 'join' to come as a new worker,
--   'sweep' to look after what no worker answers for, '' for neither
-- REPLY: {-2} when the lease is lost; else {ms until the next scheduled job, ms until the next tick} (-1 for
--   none), 1 if some worker's lease has ended or there are too many dead jobs, 1 if this worker's own had (and is renewed
--   now), 1 if there is a note of jobs that this worker holds, and the ids of this worker's jobs whose cancellation was asked for
local worker, lease, mode = ARGV[1], tonumber(ARGV[2]), ARGV[5]
local ended, wanted = 0, 0
if mode == 'join' then
  for _, name in ipairs(LANES) do
    local made = redis.pcall('XGROUP', 'CREATE', lane_key(q, name), GROUP, '0', 'MKSTREAM')
    local is_there = made.err and string.find(made.err, 'BUSYGROUP', 1, true)
    if not is_there then is_unreadable(made) end -- a malformed lane does not block the others
  end
elseif Leases.is_lost(q, worker) then
  return {-2}
elseif tonumber(redis.call('ZSCORE', q.base .. WORKERS, worker) or q.now) < q.now then
  ended = 1
end
redis.call('ZADD', q.base .. WORKERS, q.now + lease, worker)
redis.call('ZADD', q.base .. FETCHED, q.now - tonumber(ARGV[3]), worker)
Leases.cut(q, lease, lease)

-- The most consumers that a sweep looks at, for another begins with others; and workers that may have no lease.
local MOST = 2000
-- The most consumers of a lane that are listed, for they can only be listed all at once: some 6 ms.
local LISTED = 4000

-- A worker without a lease that was not recovered: the register has vanished. It may live, so it has the time to renew.
local function enter_anew(name)
  redis.call('ZADD', q.base .. WORKERS, 'NX', q.now + Leases.length_of(q, name, lease), name)
end

-- The server delivers to a read that is still blocked after its worker was recovered, and so makes the consumer
-- anew. What was delivered that way is given to the recovery; a consumer with nothing is deleted. A lane that is gone,
-- or its group, has none; the next claim makes it anew.
local function look_after(lane, consumer, pending)
  if redis.call('ZSCORE', q.base .. WORKERS, consumer) then return end
  if Leases.is_known_elsewhere(q, consumer) then
    enter_anew(consumer)
  elseif pending > 0 then
    redis.call('ZADD', q.base .. WORKERS, RECOVERING, consumer)
  else
    redis.call('XGROUP', 'DELCONSUMER', lane, GROUP, consumer)
  end
end

-- A lane's group: how many consumers and pending entries it has, and what was delivered last; nil where there is none.
local function group_of(lane)
  local groups = redis.pcall('XINFO', 'GROUPS', lane)
  for _, fields in ipairs(groups.err and {} or groups) do
    local group = {}
    for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
    if group.name == GROUP then return group end
  end
end

-- A lane with more consumers than can be listed. A consumer with a pending entry is known by that entry. Where most of
-- the others are gone, all are deleted with the group, which is made again at its position: a worker that reads is entered
-- again.
local function look_over(lane, group)
  if group.pending > 0 then
    for _, entry in ipairs(redis.call('XPENDING', lane, GROUP, 'IDLE', lease, '-', '+', MOST)) do
      look_after(lane, entry[2], 1)
    end
  elseif group.consumers > 2 * redis.call('ZCARD', q.base .. WORKERS) then
    redis.call('XGROUP', 'DESTROY', lane, GROUP)
    redis.call('XGROUP', 'CREATE', lane, GROUP, group['last-delivered-id'])
  end
end

-- Looks after some of a lane's consumers; how many.
local function look_at(lane, most)
  local group = group_of(lane)
  if not group or group.consumers == 0 then return 0 end
  if group.consumers > LISTED then
    look_over(lane, group)
    return 0
  end
  local consumers = redis.call('XINFO', 'CONSUMERS', lane, GROUP)
  local many = math.min(#consumers, most)
  for j = 1, many do
    local fields = consumers[(q.now + j) % #consumers + 1]
    look_after(lane, fields[2], fields[4])
  end
  return many
end

local function sweep()
  local looked = 0
  for i = 0, #LANES - 1 do
    if looked >= MOST then break end
    looked = looked + look_at(lane_key(q, LANES[(i + math.floor(q.now / 1000)) % #LANES + 1]), MOST - looked)
  end
  local some = redis.call('ZRANDMEMBER', q.base .. FETCHED, MOST) -- this worker is among them
  for i, lease_end in ipairs(redis.call('ZMSCORE', q.base .. WORKERS, unpack(some))) do
    if not lease_end then enter_anew(some[i]) end
  end
  local dead = redis.pcall('ZCARD', q.base .. DEAD)
  if type(dead) == 'number' and dead > tonumber(ARGV[4]) then wanted = 1 end
end

if mode ~= '' then
  redis.pcall('HSET', q.base .. LEASES, worker, lease) -- without it the others go by their own
  sweep()
end
if redis.call('ZCOUNT', q.base .. WORKERS, '-inf', '(' .. q.now) > 0 then wanted = 1 end

-- Each is there until its job has ended, so those that find no room here come with the next renewals.
local CANCELLED_LIMIT = 1000
local reply = {next_due(q), wanted, ended, redis.call('EXISTS', held_key(q, worker))}
for _, id in ipairs(redis.call('SRANDMEMBER', cancel_key(q, worker), CANCELLED_LIMIT)) do reply[#reply + 1] = id end
return reply
