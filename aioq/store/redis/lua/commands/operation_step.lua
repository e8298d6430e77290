-- Does one step of a bulk operation in this queue: acts on some jobs, and notes how far it has come.
--
-- Both are one script, and each step says how many were made before it. So if two workers carry on an operation at
-- the same time, the steps of one of them are refused, and each job is acted on once. Only jobs are acted on that
-- are still in the state in which they were listed, and nothing that was sent or has ended since the operation
-- began. Nothing is done within the ms in which it began: what happens then could not be kept apart from what has
-- happened before.
--
-- NEEDS: call, keys, record, results, history, cancellation, moves, operated, rooms
-- USES: reads batch, body, bucket, flow, group, halted, holders, job, lanes, leftovers, limits, named, operation,
--   places, schedule, scheduled, senders, standing, timers, tokens, unique, waiting; writes batch, blocked, body,
--   bucket, cancel, counters, cut, dead, flowwork, group, history, holders, idle, job, lanes, leftovers, limits,
--   log, named, operation, outbox, places, schedule, scheduled, senders, standing, stats, tasks, timers, tokens,
--   tombstone, unique, waiting, wakeable; publishes dispatched, room, waiter, worker
-- KEYS: 1 base key
-- ARGV: 1 the operation, 2 how many steps were made before; -1 to change nothing, 3 the name of this step, 4 what
--   to do: `retry`, `cancel`, `delete`, `purge`, `move`, `run_now` or `set_priority`, 5 the state of the jobs, 6
--   when the operation began in this queue, 7 the place up to which the caller has looked, 8 how many jobs it has
--   looked at, 9 for how many ms after its send a job must be found, 10 how long an outcome is kept in ms, 11
--   `about` of lib/history.lua, 12 the reason that outcomes give, 13 for how many ms after the last step this is
--   kept; then two per job: its id, and its outcome, the queue to which it goes, or its lane
-- REPLY: {what became of the step: `done`, `stale` if it was refused, or `early`; how many steps were made; the
--   place up to which they have looked; how many jobs they have looked at, acted on and left alone}
local key, before, begun, state = Keys.operation(q, ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[6]), ARGV[5]
local noted = redis.call('HMGET', key, 'steps', 'by', 'place', 'looked_at', 'done', 'skipped')
local steps, place = tonumber(noted[1] or 0), noted[3] or ''
local looked_at, done, skipped = tonumber(noted[4] or 0), tonumber(noted[5] or 0), tonumber(noted[6] or 0)
local function reply(verdict) return {verdict, steps, place, looked_at, done, skipped} end
-- If the name is that of the last step, this is the same call again, after a lost reply.
if before ~= steps then return reply(noted[2] == ARGV[3] and 'done' or 'stale') end
if q.now <= begun then return reply('early') end

local limits, ttl, acts = {tombstone = tonumber(ARGV[9])}, tonumber(ARGV[10]), {}
function acts.retry(id, job) return Operated.reopen(q, id, job) end
function acts.cancel(id, job, outcome) return select(2, Cancel.one(q, limits, id, job, outcome, ttl)) end
function acts.delete(id, job, outcome) return Operated.delete(q, limits, id, job, outcome) end
acts.purge = acts.delete
function acts.move(id, job, target)
  Moves.depart(q, id, job, target)
  return true
end
function acts.run_now(id, job)
  -- It may have run since, and wait for its retry.
  if job[Field.STARTED] and job[Field.STARTED] > begun * 1000 + 999 then return false end
  Operated.reschedule(q, id, job, q.now)
  return true
end
function acts.set_priority(id, job, lane) return Operated.prioritize(q, id, job, lane) end

-- Acts on one job; returns whether it has changed. One whose lane is a key of another type does not hold up
-- others.
local function act(id, given)
  local job = Record.load(q, id)
  if not job or (job[Field.STATE] or 'queued') ~= state or job[Field.SENT] > begun then return false end
  if job[Field.ENDED] and job[Field.ENDED] > begun then return false end
  local worked, changed = pcall(acts[ARGV[4]], id, job, given)
  if not worked then pass_over(changed) end
  return worked and changed
end

local texts = {}
for i = 14, #ARGV, 2 do texts[ARGV[i + 1]] = ARGV[12] end
History.begin(q, ARGV[11], '', nil, nil, texts)
local function act_on_all()
  for i = 14, #ARGV, 2 do
    if act(ARGV[i], ARGV[i + 1]) then done = done + 1 else skipped = skipped + 1 end
  end
end
History.around(q, act_on_all)
steps, place, looked_at = steps + 1, ARGV[7], looked_at + tonumber(ARGV[8])
redis.call('HSET', key, 'steps', steps, 'by', ARGV[3], 'place', place, 'looked_at', looked_at, 'done', done,
  'skipped', skipped)
redis.call('PEXPIRE', key, ARGV[13])
Results.publish(q)
Rooms.tell(q)
return reply('done')
