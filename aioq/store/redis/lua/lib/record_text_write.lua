-- The commonest records, as text.
--
-- Most records have one of these shapes. They are made and read as text, which is what packing them would make of
-- them, but takes a fifth of the time. See lib/record_text_read.lua for how they are read.
--
--   fresh   {JOB, SENT}                                                   as it was sent
--   first   {JOB, SENT, false, false, 'running', worker, 1, STARTED}      its first run
--   done    {false, SENT, false, false, 'succeeded', worker, 1, STARTED, OUTCOME, ENDED}
--
-- The first two also with WAITERS, and what is left out between.
--
-- NEEDS: msgpack

-- A larger envelope or result has a key of its own: so a batch of records is read without carrying megabytes, and a
-- claim does not write again (to the append-only file, to replicas) what does not change.
local BODY_LIMIT = 1024
-- The most records that are read or written with one command: far below what Lua's `unpack` carries.
local CHUNK = 500

-- What is left out between what a record of the first two shapes has and WAITERS.
local UNWATCHED, UNRUN = FALSE .. FALSE, FALSE_8

-- What a fresh record has before its envelope and after it. `watched` is who waits for the job, packed, or nil.
local function before_fresh(size, watched) return (watched and BEGIN_ARRAY_11 or BEGIN_ARRAY_2) .. header(size) end
local function after_fresh(q, watched)
  local sent = cmsgpack.pack(q.now)
  return watched and sent .. UNRUN .. watched or sent
end
local function fresh(q, envelope, watched)
  return before_fresh(#envelope, watched) .. envelope .. after_fresh(q, watched)
end

-- What comes between SENT and STARTED in a record of a worker's first run of a job, or of one that succeeded in it; the
-- state is packed already. With STARTED, packed, behind it that is all that the fence goes by.
local RUNNING, SUCCEEDED = '\167running', '\169succeeded'
local function run_by(worker, state) return FALSE .. FALSE .. state .. packed(worker) .. ONE end
-- The record of a job in its first run; `run` is what `run_by` returns, and STARTED.
local function first_run(q, envelope, watched, run)
  local kind, waiters = watched and BEGIN_ARRAY_11 or BEGIN_ARRAY_8, watched and UNWATCHED .. watched or ''
  return kind .. header(#envelope) .. envelope .. cmsgpack.pack(q.now) .. run .. waiters
end
-- What a job's record begins with that has succeeded in its first run.
local BEFORE_DONE = BEGIN_ARRAY_10 .. FALSE
