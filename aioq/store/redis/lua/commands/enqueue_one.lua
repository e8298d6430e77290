-- Adds one plain job: it is for the normal lane, to be run at once, and its id is used only once.
--
-- It is a script of its own because one job needs few arguments, which do not have to be cut, and because the job
-- may go to a waiting worker directly; docs/design.md, "A lone job goes to a waiting worker by direct dispatch".
-- It need not check for a dead job with this id, since the id is used only once.
--
-- NEEDS: keys, msgpack, record_text_write, standing, history, events, dispatch
-- USES: reads counters, idle, job, listening, standing, workers; writes counters, events, held, idle, job, lanes,
--   standing, stats, wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 its id, 2 its envelope, no larger than BODY_LIMIT, 3 the channel of a process that will wait for it, ''
--   for none, 4 the marks of lib/events.lua, '' for none
-- REPLY: 1 if it was added, 0 if there is a job with this id
local id, envelope, key = ARGV[1], ARGV[2], Keys.job(q, ARGV[1])
local watched = ARGV[3] ~= '' and packed(ARGV[3]) or nil

-- If a worker waits, the job is dispatched to it directly, so that it need not be woken and then claim.
local marks, some_wait, is_recorded = ARGV[4], false, false
if marks == '' then
  some_wait = redis.call('EXISTS', q.base .. Keys.IDLE) == 1
else
  -- One command for two keys: of those that exist, one counts one, and the other counts two.
  local there = redis.call('EXISTS', q.base .. Keys.IDLE, q.base .. Keys.LISTENING, q.base .. Keys.LISTENING)
  some_wait = there % 2 == 1
  is_recorded = there >= 2 and string.find(marks, 'e', 1, true) or string.find(marks, 'f', 1, true)
end
-- `worker` is the one that has the job already.
local function note(worker)
  if string.find(marks, 's', 1, true) then History.count_sent(q, 1) end
  if not is_recorded then return end
  Events.add_calls(q, 'q', '', {id}, {envelope})
  if worker then Events.add_calls(q, 'b', worker, {id}, {envelope}) end
end
-- Queues it. The record is written last: if that fails, there is only an entry without a record, which is ignored.
local function queue()
  local lane = Keys.lane(q, Keys.NORMAL)
  local entry = redis.call('XADD', lane, '*', 'job', id)
  if some_wait then Standing.added(q, 1, 1) end
  if redis.call('MSETNX', key, fresh(q, envelope, watched)) == 1 then
    if marks ~= '' then note() end
    return 1
  end
  redis.call('XDEL', lane, entry)
  return 0
end
if not some_wait then return queue() end

if redis.call('EXISTS', key) == 0 then
  local function running(run) return first_run(q, envelope, watched, run) end
  local worker = Dispatch.one(q, id, envelope, '', running)
  if worker then
    if marks ~= '' then note(worker) end
    return 1
  end
end
return queue()
