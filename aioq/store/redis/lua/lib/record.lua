-- The records of jobs.
--
-- NEEDS: call, keys, record_text_write, record_text_read
local Record = {}

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
--
-- READY and ATTEMPT_LOG are there only where there is a history or statistics: when the job came back to its lane,
-- and its last attempts that failed; see lib/history.lua.
local Field = {
  JOB = 1, SENT = 2, LANE = 3, NONCE = 4, STATE = 5, WORKER = 6, CLAIM = 7, STARTED = 8, OUTCOME = 9, ENDED = 10,
  WAITERS = 11, ATTEMPTS = 12, CRASHES = 13, INTERRUPTIONS = 14, PROGRESS = 15, CANCEL = 16, CANCEL_TTL = 17,
  PARKED = 18, TTL = 19, CUTS = 20, EXTRA = 21, READY = 22, ATTEMPT_LOG = 23,
}

-- Fills the fields up to `last` with false: a table with gaps would not be packed as an array.
function Record.widen(job, last)
  for i = #job + 1, last do job[i] = false end
end

Record.KINDS = {
  'string', 'number', 'string', 'string', 'string', 'string', 'number', 'number', 'string', 'number', 'string',
  'number', 'number', 'number', 'string', 'string', 'number', 'number', 'number', 'number', 'table', 'number',
  'table',
}

-- EXTRA is a job's further data, which a plain job does not have; see lib/hooks.lua. The value of each of its keys
-- is a list with items of these types; the last type may be repeated.
Record.kinds_in_extra = once(function()
  return {
    tags = {'string'},
    expires = {'number', 'number', 'boolean'},
    move = {'string', 'string', 'string', 'number', 'number'},
    origins = {'number', 'string'},
    batch = {'string', 'number', 'number', 'number'},
    unique = {'string', 'string', 'string', 'number', 'number'},
    limits = {'table'},
    waits = {'string'},
    flow = {'string', 'number'},
  }
end)

-- The types of the items of each limit; see lib/limit_use.lua.
Record.KINDS_IN_LIMIT = {
  'string', 'string', 'number', 'number', 'number', 'number', 'number', 'string', 'boolean', 'number', 'number',
  'number',
}
function Record.are_limits(items)
  for _, use in ipairs(items) do
    for i, kind in ipairs(Record.KINDS_IN_LIMIT) do
      if type(use[i]) ~= kind then return false end
    end
  end
  return true
end

-- The keys of an EXTRA that this version knows, and whether these are all.
function Record.known_of(extra)
  local every, known, is_all = Record.kinds_in_extra(), {}, true
  for key, items in pairs(extra) do
    local kinds = every[key]
    local fits = kinds and type(items) == 'table' and items[#kinds] ~= nil
    for i, item in ipairs(fits and items or {}) do
      if type(item) ~= (kinds[i] or kinds[#kinds]) then fits = false end
    end
    if fits and key == 'limits' then fits = Record.are_limits(items) end
    if fits then known[key] = items else is_all = false end
  end
  return known, is_all
end

-- By state, the first of the two fields that a record in this state must have; 0 for none.
Record.STATES = {
  [false] = 0, scheduled = 0, waiting = 0, moving = 0, moved = 0, running = Field.WORKER,
  succeeded = Field.OUTCOME, failed = Field.OUTCOME, cancelled = Field.OUTCOME,
}

-- What is known here of a job that was moved to another queue, as `Move` in aioq/store/extra.py; nil if it was
--   not.
--   1 that queue, 2 the entry of the outbox by which it goes there ('' once it has arrived), 3 the state in which
--   it was moved, 4 when it is due (0 for at once), 5 when it was moved
function Record.move_of(job) return job[Field.EXTRA] and job[Field.EXTRA].move end
function Record.is_elsewhere(job) return job[Field.STATE] == 'moving' or job[Field.STATE] == 'moved' end

-- Whether a job runs at this worker under this claim; `job` is nil if there is none.
function Record.is_run_by(job, worker, claim)
  if not job or job[Field.STATE] ~= 'running' then return false end
  return job[Field.WORKER] == worker and job[Field.STARTED] == tonumber(claim)
end

-- Whether all fields have their types: a value that was put there by hand must not stop other jobs.
function Record.is_record(job)
  if type(job) ~= 'table' or type(job[Field.SENT]) ~= 'number' then return false end
  local first = Record.STATES[job[Field.STATE] or false]
  if not first or first > 0 and not (job[first] and job[first + 1]) then return false end
  if job[Field.CANCEL] and not job[Field.CANCEL_TTL] then return false end
  for field, value in ipairs(job) do
    local is_elsewhere = value == true and (field == Field.JOB or field == Field.OUTCOME)
    if value and type(value) ~= Record.KINDS[field] and not is_elsewhere then return false end
  end
  if Record.is_elsewhere(job) and not Record.move_of(job) then return false end
  return not job[Field.EXTRA] or select(2, Record.known_of(job[Field.EXTRA]))
end

function Record.unpacked(text)
  if not text then return nil end
  local readable, job = pcall(cmsgpack.unpack, text)
  return readable and Record.is_record(job) and job or nil
end

function Record.load(q, id)
  local text = redis.pcall('GET', Keys.job(q, id))
  return not is_unreadable(text) and Record.unpacked(text) or nil
end

-- The records of several jobs, by id.
function Record.load_all(q, ids)
  local jobs = texts_of(q, ids)
  for id, text in pairs(jobs) do jobs[id] = Record.unpacked(text) end
  return jobs
end

-- Stores the record of a job that has not ended.
function Record.save(q, id, job) redis.call('SET', Keys.job(q, id), cmsgpack.pack(job)) end

-- Stores texts, given as an array of keys and texts in turn.
function Record.set_all(texts)
  for start = 1, #texts, 2 * CHUNK do
    redis.call('MSET', unpack(texts, start, math.min(start + 2 * CHUNK - 1, #texts)))
  end
end

-- Stores the records of jobs that have not ended, given as an array of ids and records in turn.
function Record.save_all(q, changed)
  local texts = {}
  for i = 1, #changed, 2 do texts[i], texts[i + 1] = Keys.job(q, changed[i]), cmsgpack.pack(changed[i + 1]) end
  Record.set_all(texts)
end

-- A new job's record. A large envelope is written to a key of its own, so the caller must first have written what
-- makes the job found.
function Record.new(q, id, envelope, lane, nonce, state)
  if #envelope > BODY_LIMIT then
    redis.call('SET', Keys.body(q, id), envelope)
    envelope = true
  end
  if state then return {envelope, q.now, lane or false, nonce or false, state} end
  if nonce then return {envelope, q.now, lane or false, nonce} end
  return lane and {envelope, q.now, lane} or {envelope, q.now}
end

-- The value of a field that may be in a key of its own; false if that key does not exist (any more).
function Record.whole(q, id, value)
  if value ~= true then return value end
  local body = redis.pcall('GET', Keys.body(q, id))
  return not is_unreadable(body) and body
end

-- The queues that must be notified of the job's end; see lib/hooks.lua. Nil if there are none.
function Record.origins_of(job) return job[Field.EXTRA] and job[Field.EXTRA].origins end

-- Whether a new send may use the id of a job although its record exists: its result has expired by its
-- `result_ttl`, and the record is kept for the operator only.
function Record.is_free(q, job)
  local ttl = job[Field.STATE] == 'failed' and job[Field.TTL]
  return ttl and job[Field.ENDED] + ttl <= q.now and not Record.origins_of(job)
end

function Record.has_ended(job)
  return job[Field.STATE] == 'succeeded' or job[Field.STATE] == 'failed' or job[Field.STATE] == 'cancelled'
end
