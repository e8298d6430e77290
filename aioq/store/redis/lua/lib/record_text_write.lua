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
-- them, but takes a fifth of the time. See lib/record_text_read.lua for how they are read.
--
--   fresh   {JOB, SENT}                                                   as it was sent
--   first   {JOB, SENT, false, false, 'running', worker, 1, STARTED}      its first run
--   done    {false, SENT, false, false, 'succeeded', worker, 1, STARTED, OUTCOME, ENDED}
--
-- The first two also with WAITERS, and what is left out between.
local NOW = cmsgpack.pack(now)
local UNWATCHED, UNRUN = '\194\194', '\194\194\194\194\194\194\194\194'

-- What comes before a string of up to 65,535 bytes.
local function header(size)
  if size < 32 then return string.char(160 + size) end
  if size < 256 then return '\217' .. string.char(size) end
  return '\218' .. string.char(math.floor(size / 256), size % 256)
end
local function packed(text) return header(#text) .. text end

-- What a fresh record has before its envelope and after it. `watched` is who waits for the job, packed, or nil.
local function before_fresh(size, watched) return (watched and '\155' or '\146') .. header(size) end
local function after_fresh(watched) return watched and NOW .. UNRUN .. watched or NOW end
local function fresh(envelope, watched) return before_fresh(#envelope, watched) .. envelope .. after_fresh(watched) end

-- What comes between SENT and STARTED in a record of a worker's first run of a job, or of one that succeeded in it; the
-- state is packed already. With STARTED, packed, behind it that is all that the fence goes by.
local RUNNING, SUCCEEDED = '\167running', '\169succeeded'
local function run_by(worker, state) return '\194\194' .. state .. packed(worker) .. '\1' end
-- The record of a job in its first run; `run` is what `run_by` returns, and STARTED.
local function first_run(envelope, watched, run)
  local kind, waiters = watched and '\155' or '\152', watched and UNWATCHED .. watched or ''
  return kind .. header(#envelope) .. envelope .. NOW .. run .. waiters
end
