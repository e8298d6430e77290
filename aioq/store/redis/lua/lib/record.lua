-- The records of jobs.
--
-- NEEDS: call, keys, record_text_write, record_text_read

-- A job's record is one string: a MessagePack array of the fields below. It is no hash: Redis stores a hash with
-- one value over 64 bytes as a table, and each field that is read or changed would be a command.
--
-- Absent fields are false, and left out at the end. An absent state is `queued`, an absent lane `normal`. JOB is
-- the envelope, OUTCOME the outcome; each is true if it is in a key of its own. Both use the same key: a job with
-- a large outcome has no envelope any more.
--
-- Times are in ms, except STARTED, which is in microseconds. It is also the number of the claim, which the fence
-- compares: no two scripts begin within the same microsecond. CLAIM counts how often the job was claimed; the
-- count begins again if the id is used again.
local JOB, SENT, LANE, NONCE, STATE, WORKER, CLAIM, STARTED = 1, 2, 3, 4, 5, 6, 7, 8
local OUTCOME, ENDED, WAITERS, ATTEMPTS, CRASHES, INTERRUPTIONS = 9, 10, 11, 12, 13, 14
local PROGRESS, CANCEL, CANCEL_TTL, PARKED, TTL, CUTS, EXTRA = 15, 16, 17, 18, 19, 20, 21
-- Only where there is a history or statistics: when the job came back to its lane, and its last attempts that failed;
-- see lib/history.lua.
local READY, ATTEMPT_LOG = 22, 23

-- Fills the fields up to `last` with false: a table with gaps would not be packed as an array.
local function widen(job, last)
  for i = #job + 1, last do job[i] = false end
end

local KINDS = {
  'string', 'number', 'string', 'string', 'string', 'string', 'number', 'number', 'string', 'number', 'string',
  'number', 'number', 'number', 'string', 'string', 'number', 'number', 'number', 'number', 'table', 'number', 'table',
}

-- EXTRA is a job's further data, which a plain job does not have; see lib/hooks.lua. The value of each of its keys is a
-- list with items of these types; the last type may be repeated.
local kinds_in_extra = once(function()
  return {
    tags = {'string'},
    expires = {'number', 'number', 'boolean'},
    move = {'string', 'string', 'string', 'number', 'number'},
    origins = {'number', 'string'},
  }
end)

-- The keys of an EXTRA that this version knows, and whether these are all.
local function known_of(extra)
  local every, known, is_all = kinds_in_extra(), {}, true
  for key, items in pairs(extra) do
    local kinds = every[key]
    local fits = kinds and type(items) == 'table' and items[#kinds] ~= nil
    for i, item in ipairs(fits and items or {}) do
      if type(item) ~= (kinds[i] or kinds[#kinds]) then fits = false end
    end
    if fits then known[key] = items else is_all = false end
  end
  return known, is_all
end

-- By state, the first of the two fields that a record in this state must have; 0 for none.
local STATES = {
  [false] = 0, scheduled = 0, waiting = 0, running = WORKER, succeeded = OUTCOME, failed = OUTCOME, cancelled = OUTCOME,
  moving = 0, moved = 0,
}

-- What is known here of a job that was moved to another queue, as `Move` in aioq/store/extra.py; nil if it was not.
--   1 that queue, 2 the entry of the outbox by which it goes there ('' once it has arrived), 3 the state in which it
--   was moved, 4 when it is due (0 for at once), 5 when it was moved
local function move_of(job) return job[EXTRA] and job[EXTRA].move end
local function is_elsewhere(job) return job[STATE] == 'moving' or job[STATE] == 'moved' end

-- Whether all fields have their types: a value that was put there by hand must not stop other jobs.
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
  if is_elsewhere(job) and not move_of(job) then return false end
  return not job[EXTRA] or select(2, known_of(job[EXTRA]))
end

local function unpacked(text)
  if not text then return nil end
  local readable, job = pcall(cmsgpack.unpack, text)
  return readable and is_record(job) and job or nil
end

local function load(q, id)
  local text = redis.pcall('GET', job_key(q, id))
  return not is_unreadable(text) and unpacked(text) or nil
end

-- The records of several jobs, by id.
local function load_all(q, ids)
  local jobs = texts_of(q, ids)
  for id, text in pairs(jobs) do jobs[id] = unpacked(text) end
  return jobs
end

-- Stores the record of a job that has not ended.
local function save(q, id, job) redis.call('SET', job_key(q, id), cmsgpack.pack(job)) end

-- Stores texts, given as an array of keys and texts in turn.
local function set_all(texts)
  for start = 1, #texts, 2 * CHUNK do
    redis.call('MSET', unpack(texts, start, math.min(start + 2 * CHUNK - 1, #texts)))
  end
end

-- Stores the records of jobs that have not ended, given as an array of ids and records in turn.
local function save_all(q, changed)
  local texts = {}
  for i = 1, #changed, 2 do texts[i], texts[i + 1] = job_key(q, changed[i]), cmsgpack.pack(changed[i + 1]) end
  set_all(texts)
end

-- A new job's record. A large envelope is written to a key of its own, so the caller must first have written what
-- makes the job found.
local function new_job(q, id, envelope, lane, nonce, state)
  if #envelope > BODY_LIMIT then
    redis.call('SET', body_key(q, id), envelope)
    envelope = true
  end
  if state then return {envelope, q.now, lane or false, nonce or false, state} end
  if nonce then return {envelope, q.now, lane or false, nonce} end
  return lane and {envelope, q.now, lane} or {envelope, q.now}
end

-- The value of a field that may be in a key of its own; false if that key does not exist (any more).
local function whole(q, id, value)
  if value ~= true then return value end
  local body = redis.pcall('GET', body_key(q, id))
  return not is_unreadable(body) and body
end

-- The queues that must be notified of the job's end; see lib/hooks.lua. Nil if there are none.
local function origins_of(job) return job[EXTRA] and job[EXTRA].origins end

-- Whether a new send may use the id of a job although its record exists: its result has expired by its
-- `result_ttl`, and the record is kept for the operator only.
local function is_free(q, job)
  return job[STATE] == 'failed' and job[TTL] and job[ENDED] + job[TTL] <= q.now and not origins_of(job)
end

local function has_ended(job)
  return job[STATE] == 'succeeded' or job[STATE] == 'failed' or job[STATE] == 'cancelled'
end
