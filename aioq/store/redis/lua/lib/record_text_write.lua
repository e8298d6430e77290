-- Writes the most common records as text; docs/design.md, "The most common records are read and written as text".
--
-- Most records have one of these shapes. They are written and read as text: the bytes are the same as those of
-- MessagePack, but this takes a fifth of the time. lib/record_text_read.lua reads them.
--
--   fresh   {JOB, SENT}                                                   as it was sent
--   first   {JOB, SENT, false, false, 'running', worker, 1, STARTED}      its first run
--   done    {false, SENT, false, false, 'succeeded', worker, 1, STARTED, OUTCOME, ENDED}
--
-- The first two may also have WAITERS, with false for all fields in between.
--
-- NEEDS: msgpack

-- The largest envelope or result in a record, in bytes; a larger one has a key of its own. So a batch of records
-- is read without megabytes of these, and a claim does not write them again to the append-only file and the
-- replicas.
local BODY_LIMIT = 1024
-- The most records that are read or written with one command: far fewer than Lua's `unpack` can return.
local CHUNK = 500

-- Calls a function with all of these, so many at once.
local function in_chunks(items, call)
  for start = 1, #items, CHUNK do call(unpack(items, start, math.min(start + CHUNK - 1, #items))) end
end

-- The false fields before WAITERS: in a record of the second shape, and in one of the first.
local UNWATCHED, UNRUN = FALSE .. FALSE, FALSE_8

-- The parts of a fresh record before and after its envelope. `watched` is the channel that waits for the job,
-- packed, or nil.
local function before_fresh(size, watched) return (watched and BEGIN_ARRAY_11 or BEGIN_ARRAY_2) .. header(size) end
local function after_fresh(q, watched)
  local sent = cmsgpack.pack(q.now)
  return watched and sent .. UNRUN .. watched or sent
end
local function fresh(q, envelope, watched)
  return before_fresh(#envelope, watched) .. envelope .. after_fresh(q, watched)
end

-- The fields between SENT and STARTED in the record of a first run, or of a job that succeeded in its first run;
-- `state` is packed already. Followed by STARTED, packed, it has all that the fence compares.
local RUNNING, SUCCEEDED = '\167running', '\169succeeded'
local function run_by(worker, state) return FALSE .. FALSE .. state .. packed(worker) .. ONE end
-- The record of a job in its first run; `run` is the result of `run_by`, followed by STARTED.
local function first_run(q, envelope, watched, run)
  local kind, waiters = watched and BEGIN_ARRAY_11 or BEGIN_ARRAY_8, watched and UNWATCHED .. watched or ''
  return kind .. header(#envelope) .. envelope .. cmsgpack.pack(q.now) .. run .. waiters
end
-- The beginning of the record of a job that has succeeded in its first run.
local BEFORE_DONE = BEGIN_ARRAY_10 .. FALSE
