-- Lets a job that runs be under limits from now on: its sender did not know them, as where a task is sent by its
-- name. If it may not run, it waits in a group, and is not held by its worker any more.
--
-- NEEDS: keys, record, limits
-- USES: reads bucket, group, halted, holders, job, lanes, limits, scheduled, standing, timers, tokens; writes
--   blocked, bucket, group, held, holders, idle, job, lanes, limits, scheduled, standing, timers, tokens, waiting,
--   wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 the worker, 2 the job, 3 the claim, 4 its limits, each as `LimitUse` in aioq/store/extra.py
-- REPLY: 1 if it may go on; 0 if it waits, or is not run by this worker any more
local id = ARGV[2]
local job = Record.load(q, id)
if not Record.is_run_by(job, ARGV[1], ARGV[3]) then return 0 end
if Use.of(job) then return 1 end -- the same call again, after a lost reply

Record.widen(job, Field.EXTRA)
job[Field.EXTRA] = job[Field.EXTRA] or {}
job[Field.EXTRA].limits = cmsgpack.unpack(ARGV[4])
local may_run = Limits.admit(q, id, job, false)
Record.save(q, id, job)
if may_run then return 1 end
redis.call('SREM', Keys.held(q, ARGV[1]), id)
return 0
