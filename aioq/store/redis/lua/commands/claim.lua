-- Takes jobs off the lanes in priority order, marks them running and returns their envelopes.
--
-- An entry leaves the stream's pending list here, not at the settle: what a worker owns is in its held set and
-- in the job's record. So the pending list only bridges the moment between a blocking read and its claim, and
-- whole nodes of the stream can be trimmed however long a job runs.
--
-- A job is put into the held set, then marked, then its entry is acknowledged: wherever the script fails, the job is
-- in the held set or its entry is pending, and the next claim with known jobs or the recovery finds it.
--
-- NEEDS: call, keys, msgpack, record_text_write, record_text_read, record, lanes, timers, hooks, leases, due, entries, foreign, holding
-- USES: reads body, fetched, held, job, lanes, scheduled, schedules, workers; writes held, idle, job, lanes, scheduled,
--   timers
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 how many, 3 '' or the ids of the jobs this worker knows that it holds, as a MessagePack array:
--   then it is also given what it holds or was sent without knowing, because a reply got lost, and what it knows of is
--   noted again where that note has vanished; where it knows of very many, the caller has done that, and this is a map
--   with some that it holds without knowing (`missed`); 4 'idle' where it
--   waits for jobs after this if it finds less than it asks for,
--   then three for each entry a blocking read brought: lane, entry id, ids of its jobs as a MessagePack array
-- REPLY: {-2} when the worker has lost its lease; else {ms until the next scheduled job, ms until the next tick} (-1
--   for none), the number of this claim, what else there is to say (0 for nothing, else {the last entry that named no job
--   in aioq's way, the last job whose record this version cannot read ('' for none), 1 where the call ended before the
--   lanes did}), and per job id, envelope, sent, and {claims, attempts, crashes, interruptions, its tags where it has
--   any}, or 0 where this is the first time that it is claimed
local worker, count = ARGV[1], tonumber(ARGV[2])
local lost = Leases.is_lost(q, worker)

-- A reply is closed at this many bytes of envelopes, so that it arrives in time over a slow link too.
local CLAIM_LIMIT = 1048576
-- It is not known how many jobs an entry names: so the first read is of one entry, and each of at most four times as many,
-- far fewer than what is read of a `rest` at once.
local GROWTH, MOST, ALL = 4, 100, 1000
-- How many jobs a call passes over, and entries that name none: what takes some milliseconds. A lane may hold 300,000
-- that were cancelled. A large record counts as one for each kilobyte, for it takes as long to read.
local PASSED_LIMIT, LARGE = 2000, 1024
-- How many of the jobs that it holds are looked up of those that the worker does not know of: more than any has slots.
local HELD_LIMIT = 10000
-- How many jobs of entries, or entries that name none, are taken that were delivered to it: a wait brings nine entries at the
-- most.
local DELIVERED_LIMIT = 3000
local recheck, known, missed = ARGV[3] ~= '', {}, nil
if recheck then
  local held = cmsgpack.unpack(ARGV[3])
  missed = held.missed
  for _, id in ipairs(held) do known[id] = true end
end

-- The time that ends at a position of a record's text.
local function time_at(text, last)
  local a, b, c, d, e, f = string.byte(text, last - 5, last)
  return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end

-- The envelope of a fresh record, when it was sent, and its record in a first run; nil for any other. `run` is what
-- `run_by` returns, and STARTED.
local function begin_first(text, run)
  local kind, first, sent, rest = start_of(text)
  if not kind then return nil end
  local envelope = string.sub(text, first, sent - 1)
  if kind == ARRAY_2 and #text == rest - 1 then
    return envelope, time_at(text, rest - 1), BEGIN_ARRAY_8 .. string.sub(text, 2) .. run
  end
  local watched = rest + #UNRUN
  if kind ~= ARRAY_11 or string.sub(text, rest, watched - 1) ~= UNRUN then return nil end
  if not ends_with_string(text, watched) then return nil end
  local record = string.sub(text, 1, rest - 1) .. run .. UNWATCHED .. string.sub(text, watched)
  return envelope, time_at(text, rest - 1), record
end

local number = q.micros -- of this claim, see lib/record.lua
local reply, taken, bytes, passed, delivered = {0, number, 0}, 0, 0, 0, 0
local marked, held = {}, {}
-- The last entry that named no job in aioq's way, and the last job whose record this version cannot read.
local malformed, foreign = '', ''

local function jobs_of(entry)
  local ids, wrong = Entries.named_by(entry)
  malformed = wrong or malformed
  return ids
end

-- Whether the call has done what it may, or all that was asked for.
local function is_full() return taken >= count or bytes >= CLAIM_LIMIT or passed >= PASSED_LIMIT end
local run = run_by(worker, RUNNING) .. cmsgpack.pack(number)

local function give(id, envelope, sent, past, text)
  taken, bytes = taken + 1, bytes + #envelope
  marked[#marked + 1], marked[#marked + 2] = job_key(q, id), text
  held[#held + 1] = id
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = id, envelope, sent, past
end

-- What this version cannot read. Only a job that is queued comes from its lane; of any other the entry is a leftover.
local function pass_on(id, text)
  local state = Foreign.state_of(q, id, text)
  if state == 'queued' or state == 'unknown' then
    Foreign.put_off(q, id)
    foreign = id
  end
  return false
end

-- Takes a job whose record is no fresh one, if it is to be taken: an entry may outlive its job, that was cancelled, has
-- expired, or was named twice. `is_held` where it is one that the worker holds. Returns whether it is taken.
local function take_other(id, text, is_held)
  local job = unpacked(text)
  if not job then return not is_held and pass_on(id, text) end
  local unknown = recheck and job[STATE] == 'running' and job[WORKER] == worker and not known[id]
  local orphan = job[STATE] == 'running' and job[WORKER] ~= worker and Foreign.is_orphan(q, job)
  if job[STATE] and not unknown and not orphan then return false end
  local envelope = whole(q, id, job[JOB])
  if not envelope then
    -- Evicted, or deleted by hand: it cannot be run, and its waiters are notified. A timer ends it.
    set_timer(q, CALL_GONE, id, q.now)
    if job[STATE] then
      job[STATE], job[WORKER] = false, false
      save(q, id, job)
      redis.call('SREM', held_key(q, worker), id)
    end
    return false
  end
  if not run_hooks(q, 'start', id, job) then return false end
  known[id] = 'taken'
  if orphan then
    widen(job, CRASHES)
    job[CRASHES] = (job[CRASHES] or 0) + 1
  end
  local claims = (job[CLAIM] or 0) + 1
  widen(job, STARTED)
  job[STATE], job[WORKER], job[CLAIM], job[STARTED] = 'running', worker, claims, number
  local past = {claims, job[ATTEMPTS] or 0, job[CRASHES] or 0, job[INTERRUPTIONS] or 0}
  if job[EXTRA] then past[5] = job[EXTRA].tags end
  give(id, envelope, job[SENT], past, cmsgpack.pack(job))
  return true
end

-- `text` is what was read under the job's key: false for nothing or for a key of another type, nil where it is known that
-- there is none.
local function take(id, text, is_held)
  if text ~= nil and known[id] ~= 'taken' then
    local envelope, sent, record = begin_first(text, run)
    if envelope then
      known[id] = 'taken'
      return give(id, envelope, sent, 0, record)
    end
    if take_other(id, text, is_held) then return end
  end
  passed = passed + 1 + math.floor(#(text or '') / LARGE)
end

-- Writes down what was taken; before the entries are acknowledged.
local function mark()
  if #held == 0 then return end
  redis.call('SADD', held_key(q, worker), unpack(held))
  set_all(marked)
  marked, held = {}, {}
end

-- Some of these texts are false: where no such record is there at all, which is one question, they become nil.
local function look_for_missing(ids, texts)
  local missing = {}
  for _, id in ipairs(ids) do
    if texts[id] == false then missing[#missing + 1] = job_key(q, id) end
  end
  if missing[1] and redis.call('EXISTS', unpack(missing)) == 0 then
    for _, id in ipairs(ids) do texts[id] = texts[id] or nil end
  end
end

-- Takes as many of the jobs as there is room for; returns the position of the first that is left.
local function take_all(ids)
  local first, most = 1, count - taken
  while first <= #ids and not is_full() do
    local some, before = {unpack(ids, first, math.min(#ids, first + most - 1))}, taken
    local texts, looked = texts_of(q, some), false
    for _, id in ipairs(some) do
      if taken >= count or bytes >= CLAIM_LIMIT or passed >= PASSED_LIMIT then break end
      if not texts[id] and not looked then
        look_for_missing(some, texts)
        looked = true
      end
      take(id, texts[id])
      first = first + 1
    end
    most = taken == before and math.min(most * GROWTH, MOST) or count - taken
  end
  mark()
  return first
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
local function trim(lane, last, is_empty)
  local pending = redis.pcall('XPENDING', lane, GROUP)
  if pending.err then return end
  if pending[1] > 0 then
    redis.pcall('XTRIM', lane, 'MINID', '~', pending[2])
  elseif is_empty then
    redis.pcall('XTRIM', lane, 'MAXLEN', 0)
  else
    redis.pcall('XTRIM', lane, 'MINID', '~', last)
  end
end

-- Takes an entry that was delivered to this worker. A wait brings one of each lane that has any, which can be more
-- than there are free slots: the rest goes back to the front, as does all where the lease has ended.
local function accept(name, entry, ids)
  local lane = lane_key(q, name)
  local pending = redis.pcall('XPENDING', lane, GROUP, entry, entry, 1)
  -- A worker that has recovered this entry meanwhile has acknowledged it.
  if is_unreadable(pending) or not pending[1] then return end
  if lost then run_hooks_returned(q, ids) end
  for i = lost and 1 or take_all(ids), #ids do Lanes.push(q, lane_of(name), ids[i], true) end
  redis.call('XACK', lane, GROUP, entry)
  redis.call('XDEL', lane, entry)
end

for i = 5, #ARGV, 3 do accept(ARGV[i], ARGV[i + 1], cmsgpack.unpack(ARGV[i + 2])) end
redis.pcall('ZREM', q.base .. IDLE, worker)
if lost then return {-2} end

local function keys_of(set)
  local keys = {}
  for key in pairs(set) do keys[#keys + 1] = key end
  return keys
end
if recheck and not missed and redis.call('EXISTS', held_key(q, worker)) == 0 then hold_again(q, worker, keys_of(known)) end

-- What was meant for this worker already comes before anything new, however long the lanes are.
if recheck then
  for _, name in ipairs(LANES) do
    repeat
      local entries = read(lane_key(q, name), '0', MOST)
      for _, entry in ipairs(entries) do
        if delivered >= DELIVERED_LIMIT then break end
        local named = jobs_of(entry)
        accept(name, entry[1], named)
        delivered = delivered + math.max(#named, 1)
      end
    until #entries < MOST or passed >= PASSED_LIMIT or delivered >= DELIVERED_LIMIT
  end
  for _, id in ipairs(missed or redis.call('SRANDMEMBER', held_key(q, worker), HELD_LIMIT)) do
    if is_full() then break end
    if not known[id] then
      local text = redis.pcall('GET', job_key(q, id))
      take(id, not is_unreadable(text) and text, true)
    end
  end
  mark()
end

-- What is left of entries that were not taken whole goes before all that is in the lane, and so to its `rest`, which
-- is empty then: it is always read to its end. What is left at the front (its entries name one job each) stays there.
local function put_back(name, ids, first)
  if first > #ids then return false end
  if is_front(name) then
    for i = first, #ids do Lanes.push(q, lane_of(name), ids[i], true) end
    return true
  end
  Lanes.push_all(q, rest_of(lane_of(name)), ids, first)
  return is_rest(name)
end

for _, name in ipairs(LANES) do
  local lane, most = lane_key(q, name), is_rest(name) and ALL or 1
  while not is_full() do
    local entries = read(lane, '>', most)
    local is_empty = #entries < most
    if #entries > 0 then
      local ids, names, before = {}, {}, taken
      for i, entry in ipairs(entries) do
        local named = jobs_of(entry)
        if not named[1] then passed = passed + 1 end
        for _, id in ipairs(named) do ids[#ids + 1] = id end
        names[i] = entry[1]
      end
      local again = put_back(name, ids, take_all(ids))
      redis.call('XACK', lane, GROUP, unpack(names))
      trim(lane, names[#names], is_empty and not again)
      -- As many as will do if they name as many jobs each as these; more where none of these was to be taken.
      local wanted = taken == before and MOST or math.ceil((count - taken) * #entries / math.max(#ids, 1))
      most = math.max(1, math.min(most * GROWTH, MOST, wanted))
    end
    if is_empty then break end
  end
end

-- All lanes were read to their end.
if ARGV[4] ~= '' and not is_full() then redis.pcall('ZADD', q.base .. IDLE, q.now, worker) end
local is_cut = passed >= PASSED_LIMIT or delivered >= DELIVERED_LIMIT
if malformed ~= '' or foreign ~= '' or is_cut then reply[3] = {malformed, foreign, is_cut and 1 or 0} end
reply[1] = next_due(q)
return reply
