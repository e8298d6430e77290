-- The commonest records, as text.
--
-- NEEDS: base
local function job_key(id) return base .. ':job:' .. id end

-- A larger envelope or result has a key of its own: so a batch of records is read without carrying megabytes, and a
-- claim does not write again (to the append-only file, to replicas) what does not change.
local BODY_LIMIT = 1024
-- The most records that are read or written with one command: far below what Lua's `unpack` carries.
local CHUNK = 500

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
