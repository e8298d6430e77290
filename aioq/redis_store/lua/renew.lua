-- Takes or prolongs a worker's lease, and notes when the worker last got an answer to its fetching: a worker whose
-- lease holds is alive, one that fetches does its work.
--
-- NEEDS: base, common
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
    local made = redis.pcall('XGROUP', 'CREATE', base .. ':' .. name, GROUP, '0', 'MKSTREAM')
    local is_there = made.err and string.find(made.err, 'BUSYGROUP', 1, true)
    if not is_there then is_unreadable(made) end -- a lane that is none keeps nobody from the others
  end
elseif lease_lost(worker) then
  return {-2}
elseif tonumber(redis.call('ZSCORE', WORKERS, worker) or now) < now then
  ended = 1
end
redis.call('ZADD', WORKERS, now + lease, worker)
redis.call('ZADD', FETCHED, now - tonumber(ARGV[3]), worker)
cut_leases(lease, lease)

-- The most consumers that a sweep looks at, for another begins with others; and workers without a lease.
local MOST = 2000

-- A worker without a lease that was not recovered: the register has vanished. It may live, so it has the time to renew.
local function enter_anew(name)
  redis.call('ZADD', WORKERS, 'NX', now + lease_of(name, lease), name)
end

-- The server delivers to a read that is still blocked after its worker was recovered, and so makes the consumer
-- anew. What was delivered that way is given to the recovery; a consumer with nothing is deleted. A lane that is gone,
-- or its group, has none; the next claim makes it anew.
local function look_after(lane, consumer, pending)
  if redis.call('ZSCORE', WORKERS, consumer) then return end
  if is_known_elsewhere(consumer) then
    enter_anew(consumer)
  elseif pending > 0 then
    redis.call('ZADD', WORKERS, RECOVERING, consumer)
  else
    redis.call('XGROUP', 'DELCONSUMER', lane, GROUP, consumer)
  end
end

local function sweep()
  local looked = 0
  for i = 0, #LANES - 1 do
    if looked >= MOST then break end
    local lane = base .. ':' .. LANES[(i + math.floor(now / 1000)) % #LANES + 1]
    local consumers = redis.pcall('XINFO', 'CONSUMERS', lane, GROUP)
    if consumers.err then consumers = {} end
    local many = math.min(#consumers, MOST - looked)
    for j = 1, many do
      local fields = consumers[(now + j) % #consumers + 1]
      look_after(lane, fields[2], fields[4])
    end
    looked = looked + many
  end
  for i, name in ipairs(redis.call('ZDIFF', 2, FETCHED, WORKERS)) do
    if i > MOST then break end
    enter_anew(name)
  end
  local dead = redis.pcall('ZCARD', base .. ':dead')
  if type(dead) == 'number' and dead > tonumber(ARGV[4]) then wanted = 1 end
end

if mode ~= '' then
  redis.pcall('HSET', LEASES, worker, lease) -- without it the others go by their own
  sweep()
end
if redis.call('ZCOUNT', WORKERS, '-inf', '(' .. now) > 0 then wanted = 1 end

local reply = {next_due(), wanted, ended, redis.call('EXISTS', held_key(worker))}
for _, id in ipairs(redis.call('SMEMBERS', cancel_key(worker))) do reply[#reply + 1] = id end
return reply
