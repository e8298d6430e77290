-- Stores or deletes schedules, each only if it was not written since the caller read it. Deleting one that does
-- not exist succeeds, so a call that is repeated because its reply was lost is not refused.
--
-- A schedule exists if the queue's index has it; a hash that the index has lost is overwritten. Each write sets
-- the revision to the server's time in microseconds, or to the next number if that is higher. So a worker that has
-- read an earlier schedule with this id has another revision, however often that was written. And if several
-- queues have a schedule with the same id, the one that was written last has the highest revision.
--
-- A schedule that is deleted because no code declares it any more is kept under its key for KEPT_MS, outside of
-- the index: if the code declares it again, changes made at run time come back too. This is refused while the code
-- of a live worker declares the schedule. The caller has searched for such a worker (schedule_owners.lua), and
-- nothing is done if a worker has noted a declaration since. A worker notes what it declares before it checks
-- whether the schedule exists.
--
-- NEEDS: call, keys, lanes, overlap, due, owners
-- USES: reads batch, bucket, flow, group, halted, holders, job, lanes, limits, noted, schedule, scheduled,
--   schedules, standing, timers, tokens, unique; writes batch, blocked, bucket, flowwork, group, holders, idle,
--   job, lanes, outbox, schedule, scheduled, schedules, standing, timers, tokens, unique, waiting, wakeable;
--   publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 when a worker had last noted what it declares, before the caller read the notes ('' for never, or if
--   nothing is deleted because no code declares it),
--   then eleven per schedule: id, the revision it must have (0 for none), definition ('' to delete it), envelope,
--   lane ('' for normal), EXTRA of its jobs as MessagePack ('' for none), the hash of its definition in code,
--   marks, next tick in ms since the epoch ('' for none), runs, skipped. A hash without a definition deletes the
--   schedule because no code declares it; then the marks are 'declared' if the code of a worker does declare it
-- REPLY: {how many schedules the queue has now, and the position (from 1) of each that was refused, negative if
--   its key holds another type}; nothing if a worker has noted a declaration since
local missing = Overlap.without_index(q)
if missing then return missing end

for i = 2, #ARGV, 11 do
  local leaves = ARGV[i + 2] == '' and ARGV[i + 6] ~= '' and ARGV[i + 7] ~= 'declared'
  if leaves and ARGV[1] ~= Owners.last_noted(q) then return {} end
end

local KEPT_MS = 24 * 60 * 60 * 1000
local refused = {}

-- The revision of a schedule, '0' if it does not exist; nil if its key holds another type.
local function revision(id)
  local found = redis.pcall('HMGET', Keys.schedule(q, id), 'rev')
  if is_unreadable(found) then return nil end
  return redis.call('ZSCORE', q.base .. Keys.SCHEDULES, id) and found[1] or '0'
end

local function delete(id, code)
  local held = redis.call('HGET', Keys.schedule(q, id), 'held')
  -- Nothing would release a job that is held back once its schedule is gone.
  if held then Overlap.let_next(q, redis.call('HGET', Keys.schedule(q, id), 'current') or held) end
  redis.call('ZREM', q.base .. Keys.SCHEDULES, id)
  local key = Keys.schedule(q, id)
  if code == '' then redis.call('DEL', key) else redis.call('PEXPIRE', key, KEPT_MS) end
end

for i = 2, #ARGV, 11 do
  local id, key, tick = ARGV[i], Keys.schedule(q, ARGV[i]), ARGV[i + 8]
  local rev = revision(id)
  if not rev then
    refused[#refused + 1] = -(i + 9) / 11
  elseif ARGV[i + 2] == '' and rev == '0' then
    redis.call('ZREM', q.base .. Keys.SCHEDULES, id)
  elseif rev ~= ARGV[i + 1] or (ARGV[i + 2] == '' and ARGV[i + 6] ~= '' and ARGV[i + 7] == 'declared') then
    refused[#refused + 1] = (i + 9) / 11
  elseif ARGV[i + 2] == '' then
    delete(id, ARGV[i + 6])
  else
    local first = Due.until_first(q, q.base .. Keys.SCHEDULES)
    local extra = ARGV[i + 5]
    if extra ~= '' then redis.call('HSET', key, 'extra', extra) else redis.call('HDEL', key, 'extra') end
    redis.call('HSET', key, 'definition', ARGV[i + 2], 'job', ARGV[i + 3], 'lane', ARGV[i + 4],
      'code', ARGV[i + 6], 'marks', ARGV[i + 7], 'next', tick, 'runs', ARGV[i + 9], 'skipped', ARGV[i + 10])
    if rev == '0' then redis.call('PERSIST', key) end
    local following = math.max(q.micros, (tonumber(rev) or 0) + 1)
    redis.call('HSET', key, 'rev', string.format('%.0f', following))
    redis.call('ZADD', q.base .. Keys.SCHEDULES, tick == '' and '+inf' or tick, id)
    -- If its tick comes before all others, an entry without a job wakes one worker, which then learns of it.
    if tick ~= '' and (first < 0 or tonumber(tick) - q.now < first) then Lanes.push(q, nil, '', false) end
  end
end
return {redis.call('ZCARD', q.base .. Keys.SCHEDULES), unpack(refused)}
