-- Shared by every script: it stands before each of them when they are loaded.
--
-- A script that fails half-way is not rolled back. A server that is out of memory refuses a script's first write
-- only, so that harms nobody; but a key of another type, put there by hand, or a command that this user may not use
-- can stop a script anywhere. So what makes a job found again is written before its record says that it is there,
-- what it replaces is deleted afterwards, and entries are acknowledged last. What may fail without harm is called
-- last and its error passed over.
--
-- KEYS: 1 the queue's base key, aioq:{app:queue}; every other key of the queue starts with it, so that all of
--   them are in one cluster slot.
-- ARGV: each script's own.
-- REPLY: none of its own.
local base = KEYS[1]
local GROUP = 'aioq'
-- First served first. What was given back goes to the front of its lane, which is a stream of its own because a
-- stream can only be added to at its end.
local LANES = {'high:front', 'high', 'normal:front', 'normal', 'low:front', 'low'}
local SCHEDULED, WORKERS, FETCHED = base .. ':scheduled', base .. ':workers', base .. ':fetched'
local DEAD = base .. ':dead'
local SCHEDULES = base .. ':schedules'
-- A notice larger than this would fill a subscriber's output buffer; its receivers ask for the outcome instead.
local NOTICE_LIMIT = 65536
local MAX_WAITERS = 64
local NIL = '\192'

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function job_key(id) return base .. ':job:' .. id end
local function body_key(id) return base .. ':body:' .. id end
local function held_key(worker) return base .. ':held:' .. worker end
local function cancel_key(worker) return base .. ':cancel:' .. worker end
local function schedule_key(id) return base .. ':schedule:' .. id end

-- A lease that has run out is lost once another worker has begun to recover it, not before: after an outage of
-- the server, when all have run out, each worker that is still there goes on. RECOVERING is the score of one
-- whose recovery has begun.
local RECOVERING = 0
local function lease_lost(worker)
  local lease = redis.call('ZSCORE', WORKERS, worker)
  return not lease or tonumber(lease) == RECOVERING
end

local function push(lane, id, front)
  redis.call('XADD', base .. ':' .. (lane or 'normal') .. (front and ':front' or ''), '*', 'job', id)
end

-- A record or a lane that is none, because somebody has put a key of another type in its place or its group is gone,
-- is passed over. Any other error, as of a command that is not permitted, ends the script, before it takes for gone
-- what is there.
local function is_unreadable(reply)
  if type(reply) ~= 'table' or not reply.err then return false end
  if string.find(reply.err, 'NOGROUP', 1, true) or string.find(reply.err, 'WRONGTYPE', 1, true) then return true end
  error(reply.err)
end

-- A job's record is one string, a MessagePack array of the fields below: with a hash, one value over 64 bytes makes a
-- table of it, and each field that is looked at or changed is a command. Absent fields are false, and left out at the
-- end; an absent state is `queued`, an absent lane `normal`. JOB is the envelope, OUTCOME the outcome; true where it is
-- in a key of its own, which is one key for both: a job whose outcome may be large has no envelope any more.
local JOB, SENT, LANE, NONCE, STATE, WORKER, CLAIM, STARTED = 1, 2, 3, 4, 5, 6, 7, 8
local OUTCOME, ENDED, WAITERS, ATTEMPTS, CRASHES, INTERRUPTIONS = 9, 10, 11, 12, 13, 14
local PROGRESS, CANCEL, CANCEL_TTL, PARKED, TTL = 15, 16, 17, 18, 19

-- A larger envelope or result has a key of its own: so a batch of records is read without carrying megabytes, and a
-- claim does not write again (to the append-only file, to replicas) what does not change.
local BODY_LIMIT = 1024
-- The most records that are read or written with one command: far below what Lua's `unpack` carries.
local CHUNK = 500

-- Makes room for the fields up to `last`: what is packed as an array must have no holes.
local function widen(job, last)
  for i = #job + 1, last do job[i] = false end
end

local KINDS = {
  'string', 'number', 'string', 'string', 'string', 'string', 'number', 'number', 'string', 'number', 'string',
  'number', 'number', 'number', 'string', 'string', 'number', 'number', 'number',
}
-- Of which field on a job in each state has two.
local STATES = {
  [false] = 0, scheduled = 0, waiting = 0, running = WORKER, succeeded = OUTCOME, failed = OUTCOME, cancelled = OUTCOME,
}

-- Whether all fields are what they have to be: what somebody has put there by hand must stop no other job.
local function is_record(job)
  if type(job) ~= 'table' or type(job[SENT]) ~= 'number' then return false end
  local first = STATES[job[STATE] or false]
  if not first or first > 0 and not (job[first] and job[first + 1]) then return false end
  if job[CANCEL] and not job[CANCEL_TTL] then return false end
  for field, value in ipairs(job) do
    if value and type(value) ~= KINDS[field] and not (value == true and (field == JOB or field == OUTCOME)) then
      return false
    end
  end
  return true
end

local function unpacked(text)
  if not text then return nil end
  local readable, job = pcall(cmsgpack.unpack, text)
  return readable and is_record(job) and job or nil
end

local function load(id)
  local text = redis.pcall('GET', job_key(id))
  return not is_unreadable(text) and unpacked(text) or nil
end

-- The records of several jobs, by id.
local function load_all(ids)
  local jobs = {}
  for start = 1, #ids, CHUNK do
    local keys = {}
    for i = start, math.min(start + CHUNK - 1, #ids) do keys[#keys + 1] = job_key(ids[i]) end
    for i, text in ipairs(redis.call('MGET', unpack(keys))) do jobs[ids[start + i - 1]] = unpacked(text) end
  end
  return jobs
end

-- Stores the record of a job that has not ended.
local function save(id, job) redis.call('SET', job_key(id), cmsgpack.pack(job)) end

-- The same of several, as an array of ids and records in turn.
local function save_all(changed)
  for start = 1, #changed, 2 * CHUNK do
    local pairs_of = {}
    for i = start, math.min(start + 2 * CHUNK - 1, #changed), 2 do
      pairs_of[#pairs_of + 1], pairs_of[#pairs_of + 2] = job_key(changed[i]), cmsgpack.pack(changed[i + 1])
    end
    redis.call('MSET', unpack(pairs_of))
  end
end

-- A new job's record, and its envelope where that has a key of its own; once what makes the job found is there.
local function new_job(id, envelope, lane, nonce, state)
  if #envelope > BODY_LIMIT then
    redis.call('SET', body_key(id), envelope)
    envelope = true
  end
  if state then return {envelope, now, lane or false, nonce or false, state} end
  if nonce then return {envelope, now, lane or false, nonce} end
  return lane and {envelope, now, lane} or {envelope, now}
end

-- A field that may be in a key of its own; false where it is not (any more).
local function whole(id, value)
  if value ~= true then return value end
  local body = redis.pcall('GET', body_key(id))
  return not is_unreadable(body) and body
end

local function has_ended(job)
  return job[STATE] == 'succeeded' or job[STATE] == 'failed' or job[STATE] == 'cancelled'
end

local function until_first(key)
  local head = redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')
  -- A schedule without a next tick, such as a paused one, is kept at infinity.
  if is_unreadable(head) or not head[1] or head[2] == 'inf' then return -1 end
  return math.max(0, head[2] - now)
end

-- What to answer where a key of another type stands in the place of the index of the schedules; nil where none does.
local function without_index()
  if not is_unreadable(redis.pcall('ZRANGE', SCHEDULES, 0, 0)) then return nil end
  return redis.error_reply('WRONGTYPE ' .. SCHEDULES .. ' holds no schedules but something else; move it away')
end

-- The ms until the next scheduled job is due, and until the next tick of a schedule; -1 for none.
local function next_due() return {until_first(SCHEDULED), until_first(SCHEDULES)} end

-- What UTF-8 takes more than one byte for; see RFC 3629, section 4.
local UTF8 = {
  '[\194-\223][\128-\191]',
  '\224[\160-\191][\128-\191]',
  '[\225-\236\238\239][\128-\191][\128-\191]',
  '\237[\128-\159][\128-\191]',
  '\240[\144-\191][\128-\191][\128-\191]',
  '[\241-\243][\128-\191][\128-\191][\128-\191]',
  '\244[\128-\143][\128-\191][\128-\191]',
}
local function is_text(id)
  if not string.find(id, '[\128-\255]') then return true end
  for _, sequence in ipairs(UTF8) do id = string.gsub(id, sequence, '') end
  return not string.find(id, '[\128-\255]')
end

-- The id of the job that an entry of a lane names; '' for a wake-up, and for what somebody else has put there: an
-- entry without the field, or with an id that no client can have. That is noted in `strange`.
local strange = ''
local function named_by(entry)
  local fields = entry[2] or {}
  for i = 1, #fields, 2 do
    if fields[i] == 'job' and is_text(fields[i + 1]) then return fields[i + 1] end
  end
  if fields[1] then strange = entry[1] end
  return ''
end

-- Schedules a job whose record is still to say so. When it is due before all others, an entry without a job wakes one
-- worker, who learns of it.
local function schedule(id, due, lane)
  local head = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')
  redis.call('ZADD', SCHEDULED, due, id)
  if not head[1] or due < tonumber(head[2]) then push(lane, '', false) end
end

local function u32(n)
  local low = n % 65536
  local high = (n - low) / 65536
  return string.char(math.floor(high / 256), high % 256, math.floor(low / 256), low % 256)
end

-- Outcomes gathered by waiting process, published together at the end.
local notices = {}
local function notify(id, waiters, outcome, keep)
  if not waiters then return end
  if #outcome > NOTICE_LIMIT and keep then outcome = NIL end
  for channel in string.gmatch(waiters, '%S+') do
    local notice = notices[channel]
    if not notice then
      notice = {}
      notices[channel] = notice
    end
    notice[#notice + 1] = '\219' .. u32(#id) .. id
    notice[#notice + 1] = outcome
  end
end
local function publish()
  for channel, notice in pairs(notices) do
    redis.call('PUBLISH', channel, '\221' .. u32(#notice) .. table.concat(notice))
  end
end

-- The job of a tick has ended (its id is its schedule's, `@` and the time): the one held back for it is queued.
local function let_next(id)
  local key = schedule_key(string.match(id, '^(.*)@'))
  local found = redis.pcall('HMGET', key, 'current', 'held')
  local held = not found.err and found[2]
  if not held then return end
  if held == id then
    redis.call('HDEL', key, 'held')
  elseif found[1] == id then
    local job = load(held)
    if job and job[STATE] == 'waiting' then
      push(job[LANE], held, false)
      job[STATE] = false
      save(held, job)
    end
    redis.call('HSET', key, 'current', held)
    redis.call('HDEL', key, 'held')
  end
end

-- What is left of a job whose record goes before its send is over: a send that is repeated, because the reply got
-- lost, finds it here. It is named by the nonce of the send, or by the id where no other send can have that.
local function done_key(send) return base .. ':done:' .. send end

-- For how long after its send a job is to be found, in ms; each script that ends jobs sets it.
local tombstone = 0

-- Stores the record of a job that has ended for so many ms, or lets it go at once where those are over.
local function keep(id, job, ttl)
  if ttl < tombstone then
    local left = job[SENT] + tombstone - now
    if left > 0 and ttl < left then redis.call('SET', done_key(job[NONCE] or id), '', 'PX', left) end
  end
  if ttl <= 0 then
    redis.call('DEL', job_key(id))
  else
    redis.call('SET', job_key(id), cmsgpack.pack(job), 'PX', ttl)
  end
end

-- Lets what has a key of its own go with the record of an ended job that names it, or at once where none does.
local function let_body_go(id, job, ttl)
  if ttl > 0 and (job[JOB] or job[OUTCOME] == true) then
    redis.call('PEXPIRE', body_key(id), ttl)
  else
    redis.call('DEL', body_key(id))
  end
end

-- Ends a job: the outcome is stored, or forgotten at once where ttl is 0, and the waiters are told.
local function finish(id, job, state, outcome, ttl)
  if string.find(id, '@', 1, true) then let_next(id) end
  notify(id, job[WAITERS], outcome, ttl > 0)
  local has_body, is_large = job[JOB] == true, state == 'succeeded' and #outcome > BODY_LIMIT and ttl > 0
  if is_large then redis.call('SET', body_key(id), outcome, 'PX', ttl) end
  widen(job, ENDED)
  job[STATE], job[OUTCOME], job[ENDED] = state, is_large or outcome, now
  if job[WAITERS] then job[WAITERS] = false end
  if state ~= 'failed' then job[JOB] = false end
  keep(id, job, ttl)
  -- Not first: a server that is out of memory would let it through, and all that follows.
  if has_body then let_body_go(id, job, ttl) end
end

-- One dead job too many: from now on it is kept as every other outcome is, for its own ttl after its end.
local function unbury(id)
  local job = load(id)
  if not job or job[STATE] ~= 'failed' or not job[TTL] then return end
  local left, has_body = job[ENDED] + job[TTL] - now, job[JOB] == true
  job[JOB], job[TTL] = false, false
  keep(id, job, left)
  if has_body then redis.call('DEL', body_key(id)) end
end

-- A failed job is kept for the operator: as long as its outcome, or as the dead are kept, whichever is longer.
local function bury(id, job, outcome, ttl, dead_ttl, dead_limit)
  if ttl < dead_ttl then
    widen(job, TTL)
    job[TTL] = ttl
  end
  finish(id, job, 'failed', outcome, math.max(ttl, dead_ttl))
  if dead_ttl <= 0 then return end
  redis.call('ZADD', DEAD, now, id)
  redis.call('PEXPIRE', DEAD, dead_ttl)
  redis.call('ZREMRANGEBYSCORE', DEAD, '-inf', now - dead_ttl)
  for _, old in ipairs(redis.call('ZRANGE', DEAD, 0, -1 - dead_limit)) do
    unbury(old)
    redis.call('ZREM', DEAD, old)
  end
end

-- Sends a job that was running back to its lane.
local function give_back(id, job, front)
  push(job[LANE], id, front)
  job[STATE], job[WORKER] = false, false
  save(id, job)
end
