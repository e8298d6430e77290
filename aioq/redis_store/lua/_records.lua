-- The records of jobs.
--
-- NEEDS: base
local function job_key(id) return base .. ':job:' .. id end
local function body_key(id) return base .. ':body:' .. id end
-- What is left of a job whose record goes before its send is over: a send that is repeated, because the reply got
-- lost, finds it here. It is named by the nonce of the send, or by the id where no other send can have that.
local function done_key(send) return base .. ':done:' .. send end

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

-- The texts of the records of several jobs, by id; false where there is none.
local function texts_of(ids)
  local texts = {}
  for start = 1, #ids, CHUNK do
    local keys = {}
    for i = start, math.min(start + CHUNK - 1, #ids) do keys[#keys + 1] = job_key(ids[i]) end
    for i, text in ipairs(redis.call('MGET', unpack(keys))) do texts[ids[start + i - 1]] = text end
  end
  return texts
end

-- The records of several jobs, by id.
local function load_all(ids)
  local jobs = texts_of(ids)
  for id, text in pairs(jobs) do jobs[id] = unpacked(text) end
  return jobs
end

-- Stores the record of a job that has not ended.
local function save(id, job) redis.call('SET', job_key(id), cmsgpack.pack(job)) end

-- Stores texts, given as an array of keys and texts in turn.
local function set_all(texts)
  for start = 1, #texts, 2 * CHUNK do
    redis.call('MSET', unpack(texts, start, math.min(start + 2 * CHUNK - 1, #texts)))
  end
end

-- Stores the records of jobs that have not ended, given as an array of ids and records in turn.
local function save_all(changed)
  local texts = {}
  for i = 1, #changed, 2 do texts[i], texts[i + 1] = job_key(changed[i]), cmsgpack.pack(changed[i + 1]) end
  set_all(texts)
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

-- Most records have one of these shapes. They are made and read as text, which is what packing them would make of
-- them, but takes a fifth of the time. A time is nine bytes.
--
--   fresh   {JOB, SENT}                                                   as it was sent
--   first   {JOB, SENT, false, false, 'running', worker, 1, STARTED}      its first run
--   done    {false, SENT, false, false, 'succeeded', worker, 1, STARTED, OUTCOME, ENDED}
--
-- The first two also with WAITERS, and what is left out between.
local TIME = 9
local NOW = cmsgpack.pack(now)
local UNWATCHED, UNRUN = '\194\194', '\194\194\194\194\194\194\194\194'

-- What comes before a string of up to 65,535 bytes.
local function header(size)
  if size < 32 then return string.char(160 + size) end
  if size < 256 then return '\217' .. string.char(size) end
  return '\218' .. string.char(math.floor(size / 256), size % 256)
end
local function packed(text) return header(#text) .. text end

-- Where the string at a position begins, and where what follows it does; nil where there is none.
local function string_at(text, at)
  local kind, long, short = string.byte(text, at, at + 2)
  if kind == 217 and long then return at + 2, at + 2 + long end
  if kind == 218 and short then return at + 3, at + 3 + long * 256 + short end
  if kind and kind >= 160 and kind < 192 then return at + 1, at + 1 + kind - 160 end
end

-- Whether nothing but a string follows from a position on.
local function ends_with_string(text, at)
  local _, after = string_at(text, at)
  return after == #text + 1
end

-- What a fresh record has before its envelope and after it. `watched` is who waits for the job, packed, or nil.
local function before_fresh(size, watched) return (watched and '\155' or '\146') .. header(size) end
local function after_fresh(watched) return watched and NOW .. UNRUN .. watched or NOW end
local function fresh(envelope, watched) return before_fresh(#envelope, watched) .. envelope .. after_fresh(watched) end

-- The time that ends at a position of a record's text.
local function time_at(text, last)
  local a, b, c, d, e, f = string.byte(text, last - 5, last)
  return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end

-- Of a record of one of the first two shapes: where its envelope begins, where SENT does, and where what follows.
local function start_of(text)
  local kind = text and string.byte(text)
  if kind ~= 146 and kind ~= 152 and kind ~= 155 then return nil end
  local first, sent = string_at(text, 2)
  if not first or #text < sent + TIME - 1 or string.byte(text, sent) ~= 207 then return nil end
  return first, sent, sent + TIME
end

-- The envelope of a fresh record, when it was sent, and its record in a first run; nil for any other. `run` is what
-- `run_by` returns, and the time.
local function begin_first(text, run)
  local first, sent, rest = start_of(text)
  if not first then return nil end
  local envelope = string.sub(text, first, sent - 1)
  if string.byte(text) == 146 and #text == rest - 1 then
    return envelope, time_at(text, rest - 1), '\152' .. string.sub(text, 2) .. run
  end
  local watched = rest + #UNRUN
  if string.byte(text) ~= 155 or string.sub(text, rest, watched - 1) ~= UNRUN then return nil end
  if not ends_with_string(text, watched) then return nil end
  local record = string.sub(text, 1, rest - 1) .. run .. UNWATCHED .. string.sub(text, watched)
  return envelope, time_at(text, rest - 1), record
end

-- Of a record of a first run: when it was sent and when it began, packed, and who waits for it; nil for any other.
local function read_first(text, run)
  local _, sent, rest = start_of(text)
  if not sent or string.sub(text, rest, rest + #run - 1) ~= run then return nil end
  local started = rest + #run
  local after = started + TIME
  if string.byte(text, started) ~= 207 then return nil end
  if string.byte(text) == 152 and #text == after - 1 then
    return string.sub(text, sent, rest - 1), string.sub(text, started), false
  end
  local watched = after + #UNWATCHED
  if string.byte(text) ~= 155 or string.sub(text, after, watched - 1) ~= UNWATCHED then return nil end
  if not ends_with_string(text, watched) then return nil end
  local waiters = string_at(text, watched)
  return string.sub(text, sent, rest - 1), string.sub(text, started, after - 1), string.sub(text, waiters)
end

-- What comes between SENT and STARTED in a record of a worker's first run of a job, or of one that succeeded in it.
local function run_by(worker, state) return '\194\194' .. packed(state) .. packed(worker) .. '\1' end
