-- Live events: jobs that have not ended were sent, were started, and report progress; workers come and go; the
-- queue and tasks are paused and resumed. Those of jobs are recorded while LISTENING exists, the others, which are
-- rare, while WATCHED does; or all always, as the marks of a call say: `s` for statistics, `e` for events while
-- somebody listens, `f` for events always.
--
-- An entry of EVENTS holds what one call records. Its id is the number of its last job, a hyphen, and the time in
-- ms; the numbers count on by one for each job. Its fields:
--
--   what    `q` sent, `b` started, `p` progress; of a worker `j` joined, `l` left, `e` its lease has ended, `d` it
--           has died, `h` it takes no more jobs, `g` it takes them again; of pauses `z` paused, `u` resumed
--   by      the worker, '' for none
--   ids     a MessagePack array of job ids, '' for an event that is not of a job
--   tasks   a MessagePack array of names of tasks; of a pause '' for the whole queue
--   of      a MessagePack array: for each job the position of its task in `tasks`, from 1
--   row     the number of the last job in HISTORY, after which this has happened
--
-- It is for people: if the server refuses it, all else is done, so errors are ignored.
--
-- NEEDS: keys, history
local Events = {}
-- About how many are kept, the last ones, and for how long after the last one, in ms.
Events.MOST, Events.TTL = 10000, 86400000

function Events.are_recorded(q, marks)
  if marks == '' then return false end
  if string.find(marks, 'f', 1, true) then return true end
  return string.find(marks, 'e', 1, true) ~= nil and redis.pcall('EXISTS', q.base .. Keys.LISTENING) == 1
end

-- The same of what is not about jobs.
function Events.are_watched(q, marks)
  if string.find(marks, 'f', 1, true) then return true end
  return string.find(marks, 'e', 1, true) ~= nil and redis.pcall('EXISTS', q.base .. Keys.WATCHED) == 1
end

-- Records what has happened to jobs; `tasks` are the names of their tasks.
function Events.add(q, what, worker, ids, tasks)
  if #ids == 0 then return end
  local named, places, of = {}, {}, {}
  for i, task in ipairs(tasks) do
    if not places[task] then
      named[#named + 1] = task
      places[task] = #named
    end
    of[i] = places[task]
  end
  local last = redis.pcall('HINCRBY', q.base .. Keys.COUNTERS, 'events', #ids)
  if type(last) ~= 'number' then return end
  if last == #ids then
    -- The counter is new, or was lost: it begins beyond all numbers that were ever given.
    last = q.micros
    redis.pcall('HSET', q.base .. Keys.COUNTERS, 'events', string.format('%.0f', last))
  end
  local row = redis.pcall('HGET', q.base .. Keys.COUNTERS, 'history')
  redis.pcall('XADD', q.base .. Keys.EVENTS, 'MINID', '~', string.format('%.0f', last - Events.MOST + 1),
    string.format('%.0f-%.0f', last, q.now), 'what', what, 'by', worker, 'ids', cmsgpack.pack(ids),
    'tasks', cmsgpack.pack(named), 'of', cmsgpack.pack(of), 'row', row or 0)
  redis.pcall('PEXPIRE', q.base .. Keys.EVENTS, Events.TTL)
  redis.pcall('PEXPIRE', q.base .. Keys.COUNTERS, History.QUIET_TTL)
end

-- The same, with the calls of the jobs.
function Events.add_calls(q, what, worker, ids, calls)
  local tasks = {}
  for i, call in ipairs(calls) do tasks[i] = History.task_in(call) end
  Events.add(q, what, worker, ids, tasks)
end

-- Records what has happened to a worker.
function Events.add_worker(q, what, worker) Events.add(q, what, worker, {''}, {''}) end

-- Whether a worker is paused, by what it says of itself.
function Events.says_paused(about)
  local is_read, said = pcall(cmsgpack.unpack, about or '')
  return is_read and type(said) == 'table' and said.paused == true
end

-- Records that a worker is paused, or is not any more, by what it has said before and says now.
function Events.add_said(q, worker, before, about)
  local is_paused = Events.says_paused(about)
  if is_paused ~= Events.says_paused(before) then Events.add_worker(q, is_paused and 'h' or 'g', worker) end
end

-- Records that something was paused or resumed, given as fields of PAUSED.
function Events.add_pauses(q, what, fields)
  local ids, tasks = {}, {}
  for i, field in ipairs(fields) do ids[i], tasks[i] = '', string.match(field, '^task (.*)$') or '' end
  Events.add(q, what, '', ids, tasks)
end
