-- Lets a running job hold a unique key. Its sender did not know that the task is unique, as where a task is sent
-- by its name; so the worker asks before it calls the function.
--
-- If it is repeated because its reply was lost, it must not overwrite what a later call has changed: it leaves a
-- receipt once it has replaced another job's call.
--
-- NEEDS: record, unique, successors, receipts
-- USES: reads body, job, receipt, scheduled, standing, unique; writes body, following, idle, job, lanes,
--   leftovers, outbox, receipt, scheduled, standing, timers, unique, wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 the worker, 2 the job, 3 the claim, 4 what it is to hold, see `Lock` in aioq/store/extra.py
-- REPLY: '' if it holds the key, or has one already, or is not run by this worker any more. Else the job that
--   holds it, which has the call of this one now, if it was to be replaced; after a line break, if this job is to
--   wait for the end of that one
local id = ARGV[2]
local job = Record.load(q, id)
local extra = job and job[Field.EXTRA]
if not Record.is_run_by(job, ARGV[1], ARGV[3]) or extra and extra.unique then return '' end

local name = 'hold ' .. id .. ' ' .. ARGV[3]
local before = Receipts.found(q, name)
if before then return before[1] end

local lock = cmsgpack.unpack(ARGV[4])
local owner, there = Unique.owner(q, id, lock)
if not owner then
  Unique.take(q, id, lock)
  Record.widen(job, Field.EXTRA)
  job[Field.EXTRA] = extra or {}
  job[Field.EXTRA].unique = lock
  Record.save(q, id, job)
  return ''
end
if not there or lock[3] == 'return' or lock[3] == 'raise' or Record.is_elsewhere(there) then return owner end
if there[Field.STATE] == 'running' then return (lock[3] == 'latest' and '\n' or '') .. owner end
local envelope = Record.whole(q, id, job[Field.JOB])
if envelope and (lock[3] == 'latest' or there[Field.EXTRA].unique[6] ~= 1) then
  Successors.replace(q, owner, there, {envelope = envelope, extra = {tags = extra and extra.tags}})
  Receipts.keep(q, name, {owner})
end
return owner
