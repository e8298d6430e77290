-- Takes jobs off the lanes in priority order, marks them running and returns their envelopes.
--
-- An entry leaves the stream's pending list here, not at the settle: what a worker owns is in its held set and
-- in the job's record. So the pending list only bridges the moment between a blocking read and its claim, and
-- whole nodes of the stream can be trimmed however long a job runs.
--
-- A job is put into the held set, then marked, then its entry is acknowledged: wherever the script fails, the job is
-- in the held set or its entry is pending, and the next claim with known jobs or the recovery finds it.
--
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 how many, 3 '' or the ids of the jobs this worker knows that it holds, as a MessagePack array:
--   then it is also given what it holds or was sent without knowing, because a reply got lost,
--   then three for each entry a blocking read brought: lane, entry id, job id
-- REPLY: {-2} when the worker has lost its lease; else {ms until the next scheduled job, ms until the next tick} (-1
--   for none), now, the last entry that named no job in aioq's way ('' for none), and per job id, envelope, claim,
--   attempts, crashes, interruptions, sent
local worker, count = ARGV[1], tonumber(ARGV[2])
local lost = lease_lost(worker)

-- A reply is closed at this many bytes of envelopes, so that it arrives in time over a slow link too.
local CLAIM_LIMIT = 1048576
local recheck, known = ARGV[3] ~= '', {}
if recheck then
  for _, id in ipairs(cmsgpack.unpack(ARGV[3])) do known[id] = true end
end

local reply, taken = {0, now, ''}, 0

local bytes, marked, held = 0, {}, {}
local function take(id, job)
  -- An entry may outlive its job: cancelled, expired, or a wake-up without a job.
  if not job then return end
  local missed = recheck and job[STATE] == 'running' and job[WORKER] == worker and not known[id]
  if job[STATE] and not missed then return end
  local envelope = whole(id, job[JOB])
  if not envelope then
    -- Evicted, or deleted by hand: without it there is no job, and whoever waits for it is to learn that.
    redis.call('DEL', job_key(id))
    return
  end
  known[id] = true
  local claim = (job[CLAIM] or 0) + 1
  widen(job, STARTED)
  job[STATE], job[WORKER], job[CLAIM], job[STARTED] = 'running', worker, claim, now
  marked[#marked + 1], marked[#marked + 2] = id, job
  held[#held + 1] = id
  taken = taken + 1
  bytes = bytes + #envelope
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = id, envelope, claim
  reply[n + 4], reply[n + 5], reply[n + 6] = job[ATTEMPTS] or 0, job[CRASHES] or 0, job[INTERRUPTIONS] or 0
  reply[n + 7] = job[SENT]
end

-- Writes down what was taken; before the entries are acknowledged.
local function mark()
  if #held == 0 then return end
  redis.call('SADD', held_key(worker), unpack(held))
  save_all(marked)
  marked, held = {}, {}
end

local function read(lane, id, most)
  local got = redis.pcall('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', most, 'STREAMS', lane, id)
  if is_unreadable(got) then
    if string.find(got.err, 'WRONGTYPE', 1, true) then return {} end -- the blocking read says so, aloud
    redis.call('XGROUP', 'CREATE', lane, GROUP, '0', 'MKSTREAM')
    return read(lane, id, most)
  end
  return got and got[1] and got[1][2] or {}
end

-- Drops what every reader has passed. Only the pending list, short-lived here, holds it back. What cannot be dropped
-- now is dropped another time.
local function trim(lane, last, exhausted)
  local pending = redis.pcall('XPENDING', lane, GROUP)
  if pending.err then return end
  if pending[1] > 0 then
    redis.pcall('XTRIM', lane, 'MINID', '~', pending[2])
  elseif exhausted then
    redis.pcall('XTRIM', lane, 'MAXLEN', 0)
  else
    redis.pcall('XTRIM', lane, 'MINID', '~', last)
  end
end

-- Takes an entry that was delivered to this worker. A wait brings one of each lane that has any, which can be
-- more than there are free slots: the rest goes back to the front, as does all where the lease has ended.
local function accept(name, entry, id)
  local lane = base .. ':' .. name
  local pending = redis.pcall('XPENDING', lane, GROUP, entry, entry, 1)
  -- Whoever has recovered this entry meanwhile has acknowledged it.
  if is_unreadable(pending) or not pending[1] then return end
  if not lost and taken < count then
    take(id, load(id))
    mark()
  elseif id ~= '' then
    push((string.gsub(name, ':front$', '')), id, true)
  end
  redis.call('XACK', lane, GROUP, entry)
  redis.call('XDEL', lane, entry)
end

for i = 4, #ARGV, 3 do accept(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
if lost then return {-2} end

-- What was meant for this worker already comes before anything new, however long the lanes are.
if recheck then
  for _, name in ipairs(LANES) do
    for _, entry in ipairs(read(base .. ':' .. name, '0', 1000)) do
      accept(name, entry[1], named_by(entry))
    end
  end
  for _, id in ipairs(redis.call('SMEMBERS', held_key(worker))) do
    if taken >= count or bytes >= CLAIM_LIMIT then break end
    if not known[id] then take(id, load(id)) end
  end
  mark()
end

for _, name in ipairs(LANES) do
  local lane = base .. ':' .. name
  while taken < count and bytes < CLAIM_LIMIT do
    local most = count - taken
    local entries = read(lane, '>', most)
    if #entries > 0 then
      local ids, passed = {}, {}
      for i, entry in ipairs(entries) do ids[i], passed[i] = named_by(entry), entry[1] end
      local jobs = load_all(ids)
      for _, id in ipairs(ids) do
        if bytes < CLAIM_LIMIT then
          take(id, jobs[id])
        elseif id ~= '' then
          push((string.gsub(name, ':front$', '')), id, true)
        end
      end
      mark()
      redis.call('XACK', lane, GROUP, unpack(passed))
      trim(lane, entries[#entries][1], #entries < most)
    end
    if #entries < most then break end
  end
end

reply[1], reply[3] = next_due(), strange
return reply
