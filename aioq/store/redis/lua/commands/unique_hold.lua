-- Lets a running job hold a unique key. Its sender did not know that the task is unique, as where a task is sent
-- by its name; so the worker asks before it calls the function.
--
-- A job of a debounced task begins a series, or gives its call to the job of the one that there is.
--
-- If it is repeated because its reply was lost, it must not overwrite what a later call has changed: it leaves a
-- receipt once it has replaced another job's call.
--
-- NEEDS: record, unique, successors, series, receipts
-- USES: reads batch, body, bucket, flow, group, halted, holders, job, lanes, limits, receipt, scheduled, standing,
--   timers, tokens, unique; writes batch, blocked, body, bucket, flowwork, group, holders, idle, job, lanes,
--   leftovers, limits, outbox, receipt, scheduled, standing, timers, tokens, unique, waiting, wakeable; publishes
--   dispatched
-- KEYS: 1 base key
-- ARGV: 1 the worker, 2 the job, 3 the claim, 4 what it is to hold, see `Lock` in aioq/store/extra.py
-- REPLY: '' if it holds the key, or has one already, or is not run by this worker any more. Else the job that
--   holds it, which has the call of this one now, if it was to be replaced; after a line break, if this job is to
--   wait for the end of that one; or this job, after a line break, if it has begun a series: then it is to be put
--   off
local id = ARGV[2]
local job = Record.load(q, id)
local extra = job and job[Field.EXTRA]
if not Record.is_run_by(job, ARGV[1], ARGV[3]) then return '' end
local has = extra and extra.unique
if has and not Unique.asks(has) then return Series.is_one(has) and has[6] == 0 and '\n' .. id or '' end

local name = 'hold ' .. id .. ' ' .. ARGV[3]
local before = Receipts.found(q, name)
if before then return before[1] end

local lock = has or cmsgpack.unpack(ARGV[4])
local function hold()
  Record.widen(job, Field.EXTRA)
  job[Field.EXTRA] = extra or {}
  job[Field.EXTRA].unique = lock
  Record.save(q, id, job)
end
if Series.is_one(lock) then
  local new = {envelope = Record.whole(q, id, job[Field.JOB]), lane = job[Field.LANE] or nil}
  new.due, new.extra = q.now + lock[7], {tags = extra and extra.tags, unique = lock}
  if not new.envelope then return '' end
  local instead = Series.place(q, id, new, {})
  if instead ~= id then
    Receipts.keep(q, name, {instead})
    return instead
  end
  hold()
  return '\n' .. id
end
local owner, there, following = Unique.owner(q, id, lock)
if not owner and lock[5] == Unique.ASKS_FOR_CALL then
  lock[5] = Unique.ASKS -- it is to be run, but with another call than its worker has
  hold()
  return '\n' .. id
end
if not owner then
  lock[5] = 0
  Unique.take(q, id, lock)
  hold()
  return ''
end
if not there or lock[3] == 'return' or lock[3] == 'raise' or Record.is_elsewhere(there) then return owner end
local new = {envelope = Record.whole(q, id, job[Field.JOB]), lane = job[Field.LANE] or nil}
new.extra = {tags = extra and extra.tags, unique = lock}
if there[Field.STATE] == 'running' then
  if lock[3] ~= 'latest' then return owner end
  local alive, next_job
  if following and following ~= id then alive, next_job = Unique.is_alive(q, lock[1], following) end
  if next_job and alive and new.envelope then
    Successors.replace_next(q, following, next_job, new)
    Receipts.keep(q, name, {following})
    return following
  end
  if not alive then
    Unique.note(q, lock[1], owner, id)
    lock[5] = Unique.ASKS
    hold()
  end
  return '\n' .. owner
end
if new.envelope and (lock[3] == 'latest' or there[Field.EXTRA].unique[6] ~= 1) then
  Successors.replace(q, owner, there, new)
  Receipts.keep(q, name, {owner})
end
return owner
