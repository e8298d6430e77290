-- Takes or renews a worker's lease, and notes when the server last answered its fetcher: a worker with a valid
-- lease is alive, and one that fetches does its work.
--
-- NEEDS: call, keys, timers, leases, pauses, due, events, waiting, limit_sweep
-- USES: reads about, batch, blocked, bucket, cancel, counters, dead, fetched, flow, group, halted, held, holders,
--   job, lanes, leases, leftovers, limits, paused, scheduled, schedules, standing, timers, tokens, unique,
--   waiting, watched, workers; writes about, answer, batch, blocked, bucket, cancel, counters, events, fetched,
--   flowwork, group, halted, holders, idle, job, lanes, leases, leftovers, limits, outbox, paused, scheduled,
--   standing, timers, tokens, unique, waiting, wakeable, workers; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 lease in ms, 3 how many ms ago it last fetched, 4 the most dead jobs, 5 the marks of
--   lib/events.lua, '' for none, 6 'join' for a new worker, 'sweep' to clean up after workers that are gone, ''
--   for neither, then two for each thing that it says besides: a request and its answer, or '' and what it says of
--   itself
-- REPLY: {-2} if the lease is lost. Else {ms until the next scheduled job, ms until the next tick} (-1 for none;
--   and what `Pauses.tell` adds), 1 if another worker's lease has ended or there are too many dead jobs, 1 if this
--   worker's own lease had ended (it is renewed now), 1 if there is a held set of this worker, and the ids of this
--   worker's jobs that are to be cancelled, and with a line break in front what it is asked for
local worker, lease, mode = ARGV[1], tonumber(ARGV[2]), ARGV[6]
local ended, wanted, is_marked, lease_end = 0, 0, true, nil
if mode == 'join' then
  for _, name in ipairs(Keys.LANES) do
    local made = redis.pcall('XGROUP', 'CREATE', Keys.lane(q, name), Keys.GROUP, '0', 'MKSTREAM')
    local is_there = made.err and string.find(made.err, 'BUSYGROUP', 1, true)
    if not is_there then is_unreadable(made) end -- a lane of another type does not block the others
  end
else
  local lost
  lost, is_marked, lease_end = Leases.is_lost(q, worker)
  if lost then return {-2} end
  if lease_end and lease_end < q.now then ended = 1 end
end
-- A pause may have left this worker out, if it was not carried out to its end.
local pauses = (is_marked or mode == 'sweep') and Pauses.now(q, ARGV[5]) or nil
local lease_until = q.now + lease + (pauses and Leases.MARK or 0)
local is_new = redis.call('ZADD', q.base .. Keys.WORKERS, lease_until, worker) == 1
if is_new and mode == 'join' and Events.are_watched(q, ARGV[5]) then Events.add_worker(q, 'j', worker) end
redis.call('ZADD', q.base .. Keys.FETCHED, q.now - tonumber(ARGV[3]), worker)
Leases.cut(q, lease, lease)
-- For how long an answer is kept, in ms.
local ANSWER_TTL = 60000
for i = 7, #ARGV, 2 do
  if ARGV[i] == '' then
    if Events.are_watched(q, ARGV[5]) then
      Events.add_said(q, worker, redis.pcall('HGET', q.base .. Keys.ABOUT, worker), ARGV[i + 1])
    end
    redis.pcall('HSET', q.base .. Keys.ABOUT, worker, ARGV[i + 1])
  else
    redis.pcall('SET', Keys.answer(q, string.match(ARGV[i], '^[^\n]*')), ARGV[i + 1], 'PX', ANSWER_TTL)
    redis.call('SREM', Keys.cancel(q, worker), '\n' .. ARGV[i])
  end
end

-- The most consumers that one sweep checks, and the most workers that it checks for a lease. The next sweep begins
-- with others.
local MOST = 2000
-- The most consumers of a lane that are listed. They can only be listed all at once: some 6 ms for this many.
local LISTED = 4000

-- Gives a new lease to a worker that has none although it was not recovered: the set of workers was evicted or
-- deleted. The worker may be alive, and then has time to renew it.
local function restore_lease(name)
  redis.call('ZADD', q.base .. Keys.WORKERS, 'NX', q.now + Leases.length_of(q, name, lease) + Leases.MARK, name)
end

-- By consumer, whether it has a lease, as far as this sweep has asked: the lanes mostly have the same consumers.
local has_lease = {}
local function find_leases(consumers)
  local asked, unknown = {}, {}
  for _, name in ipairs(consumers) do
    if has_lease[name] == nil and not asked[name] then asked[name], unknown[#unknown + 1] = true, name end
  end
  if #unknown == 0 then return end
  for i, lease_end in ipairs(redis.call('ZMSCORE', q.base .. Keys.WORKERS, unpack(unknown))) do
    has_lease[unknown[i]] = lease_end and true or false
  end
end

-- Checks a consumer that may have no worker any more. If a read is still blocked after its worker was recovered,
-- the server delivers to it, and so makes the consumer again. Such entries are left to a recovery; a consumer
-- without entries is deleted.
local function check_consumer(lane, consumer, pending)
  if has_lease[consumer] then return end
  if Leases.is_known_elsewhere(q, consumer) then
    restore_lease(consumer)
  elseif pending > 0 then
    redis.call('ZADD', q.base .. Keys.WORKERS, Leases.RECOVERING, consumer)
  else
    redis.call('XGROUP', 'DELCONSUMER', lane, Keys.GROUP, consumer)
  end
end

-- The group of a lane, as fields: the numbers of its consumers and pending entries, and the last delivered entry.
-- Nil if the lane or its group does not exist; the next claim makes it again.
local function group_of(lane)
  local groups = redis.pcall('XINFO', 'GROUPS', lane)
  for _, fields in ipairs(groups.err and {} or groups) do
    local group = {}
    for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
    if group.name == Keys.GROUP then return group end
  end
end

-- Checks a lane with more consumers than can be listed. Consumers with pending entries are found by these entries.
-- If nothing is pending and most consumers are gone, the group is deleted with all of them, and made again at the
-- same position: a worker that reads is added to it again.
local function clean_large_lane(lane, group)
  if group.pending > 0 then
    local pending, names = redis.call('XPENDING', lane, Keys.GROUP, 'IDLE', lease, '-', '+', MOST), {}
    for i, entry in ipairs(pending) do names[i] = entry[2] end
    find_leases(names)
    for _, name in ipairs(names) do check_consumer(lane, name, 1) end
  elseif group.consumers > 2 * redis.call('ZCARD', q.base .. Keys.WORKERS) then
    redis.call('XGROUP', 'DESTROY', lane, Keys.GROUP)
    redis.call('XGROUP', 'CREATE', lane, Keys.GROUP, group['last-delivered-id'])
  end
end

-- Checks some of a lane's consumers; returns how many.
local function check_lane(lane, most)
  local group = group_of(lane)
  if not group or group.consumers == 0 then return 0 end
  if group.consumers > LISTED then
    clean_large_lane(lane, group)
    return 0
  end
  local consumers = redis.call('XINFO', 'CONSUMERS', lane, Keys.GROUP)
  local many, names = math.min(#consumers, most), {}
  for j = 1, many do names[j] = consumers[(q.now + j) % #consumers + 1][2] end
  find_leases(names)
  for j = 1, many do
    local fields = consumers[(q.now + j) % #consumers + 1]
    check_consumer(lane, fields[2], fields[4])
  end
  return many
end

-- Whether a stream has entries that were not claimed.
local function has_entries(stream)
  local key = Keys.lane(q, stream)
  local length = redis.pcall('XLEN', key)
  if is_unreadable(length) or length == 0 then return false end
  local group = group_of(key)
  if not group or group.pending > 0 then return true end
  return #redis.call('XRANGE', key, '(' .. group['last-delivered-id'], '+', 'COUNT', 1) > 0
end

-- Forgets how many ids are left in lanes that have no entries (lib/lanes.lua). Such a number is wrong, and would
-- stay so: the lane was evicted or deleted by hand, or a version that does not count has sent or claimed. Not
-- while a timer is due: it may be about to end a job whose entry a claim has passed.
local function forget_leftovers()
  local fields = redis.pcall('HGETALL', q.base .. Keys.LEFTOVERS)
  if is_unreadable(fields) or not fields[1] then return end
  local timer = redis.pcall('ZSCORE', q.base .. Keys.SCHEDULED, Timer.FIRST)
  if is_unreadable(timer) or timer and tonumber(timer) <= q.now then return end
  for i = 1, #fields, 2 do
    local lane, has_any = fields[i], false
    local front = Keys.front_of(lane)
    for _, stream in ipairs({front, Keys.rest_of(lane), lane, Keys.aside_of(front), Keys.aside_of(lane)}) do
      has_any = has_any or has_entries(stream)
    end
    if not has_any then redis.call('HDEL', q.base .. Keys.LEFTOVERS, lane) end
  end
end

-- How many of the workers of a queue sweep: of more, each sweeps only now and then. With 1,000 workers the server
-- would be busy with sweeps for a third of its time.
local SWEEPERS = 8

local function sweep()
  local workers = redis.call('ZCARD', q.base .. Keys.WORKERS)
  if q.micros % workers >= SWEEPERS then return end -- the time's last digits, as a random number
  local checked = 0
  for i = 0, #Keys.LANES - 1 do
    if checked >= MOST then break end
    local name = Keys.LANES[(i + math.floor(q.now / 1000)) % #Keys.LANES + 1]
    checked = checked + check_lane(Keys.lane(q, name), MOST - checked)
  end
  local some = redis.call('ZRANDMEMBER', q.base .. Keys.FETCHED, MOST) -- this worker is among them
  for i, lease_end in ipairs(redis.call('ZMSCORE', q.base .. Keys.WORKERS, unpack(some))) do
    if not lease_end then restore_lease(some[i]) end
  end
  forget_leftovers()
  Sweep.groups(q)
  Waiting.sweep(q)
  local dead = redis.pcall('ZCARD', q.base .. Keys.DEAD)
  if type(dead) == 'number' and dead > tonumber(ARGV[4]) then wanted = 1 end
end

-- Deletes what workers have said of themselves that are gone, if there are more of these than workers: a worker of
-- an older version that recovers another one leaves it.
local STRAYS_AT_ONCE = 500
local function forget_strays()
  local noted = redis.pcall('HLEN', q.base .. Keys.ABOUT)
  if is_unreadable(noted) or noted <= redis.call('ZCARD', q.base .. Keys.WORKERS) then return end
  local some = redis.call('HRANDFIELD', q.base .. Keys.ABOUT, STRAYS_AT_ONCE)
  for i, fetched in ipairs(redis.call('ZMSCORE', q.base .. Keys.FETCHED, unpack(some))) do
    if not fetched then redis.call('HDEL', q.base .. Keys.ABOUT, some[i]) end
  end
end

if mode == 'join' then forget_strays() end
if mode ~= '' then
  redis.pcall('HSET', q.base .. Keys.LEASES, worker, lease) -- without it the others assume a lease like their own
  sweep()
end
if redis.call('ZCOUNT', q.base .. Keys.WORKERS, '-inf', '(' .. q.now) > 0 then wanted = 1 end

-- Each id stays in the set until its job has ended, so the others come with the next renewals.
local CANCELLED_LIMIT = 1000
local reply = {Pauses.tell(q, Due.times(q), pauses), wanted, ended, redis.call('EXISTS', Keys.held(q, worker))}
for _, id in ipairs(redis.call('SRANDMEMBER', Keys.cancel(q, worker), CANCELLED_LIMIT)) do
  reply[#reply + 1] = id
end
return reply
