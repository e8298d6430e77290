-- The history of a queue, its statistics, and the log of attempts in a job's record.
--
-- A call gathers what it ends or gives another attempt, and writes it once all its records are written. A repeated
-- call finds the jobs settled and gathers nothing, so nothing is counted twice. What is written here is for
-- people: if the server refuses it, the jobs have ended all the same, so its errors are ignored.
--
-- An entry of HISTORY holds what one call has gathered. Its id is the number of its last job, a hyphen, and the
-- time in ms; the numbers count on by one for each job. Its fields:
--
--   by      the worker, '' for none
--   ids     a MessagePack array of job ids
--   ends    a letter for each of these jobs, `s` succeeded, `f` failed, `c` cancelled, `r` retried, `x` crashed;
--           '-' for one that was refused, which has no number
--   about   a MessagePack array: the most jobs of the history, whether there are statistics, tasks, errors
--   rows    8 bytes for each of these jobs: its run time and its wait time in seconds (floats of 4 bytes; below 0
--           for none). Behind them, if there are several tasks or any errors, 4 bytes for each: task (2 bytes,
--           from 0), error (2, from 1; 0 for none). All is big-endian
--
-- A worker sends `about` and `rows` ready-made, so that a script reads no call. With many jobs that have all
-- succeeded it sends `counts` too, '' otherwise: by task, in a MessagePack array, a list of counters, each with
-- what is to be added to it. The statistics of a minute, and of
-- an hour, are one string for each task, of counters of 32 bits: see `aioq/store/history.py` for their numbers.
--
-- NEEDS: keys, msgpack, record
local History = {}

-- Of these `aioq/store/history.py` has the same numbers: the counter of jobs that were sent, and how many there
-- are before those of the buckets; how much longer the longest time of a bucket is than that of the bucket before,
-- and the last bucket; the most attempts in a job's record.
History.SENT, History.SUMMED, History.MOST_ATTEMPTS = 6, 8, 10
History.GROWTH, History.LAST_BUCKET = 1.2, 119
-- The bytes of a job in `rows`: of its times, and of its task and error.
History.TIMES_SIZE, History.PLACES_SIZE = 8, 4
-- A float of 4 bytes may be larger than the number that it was made of, but by less than this part of a bucket.
History.ROUNDED = 1e-6
-- The periods of the statistics, and for how long after its first count each is kept, in ms.
History.MINUTE, History.MINUTE_KEPT = 60000, 10860000
History.HOUR, History.HOUR_KEPT = 3600000, 262800000
-- The most tasks that have statistics.
History.MOST_TASKS = 1000
-- For how long numbers and rows are kept once nothing happens any more, in ms. That is noted with about one row of
-- so many.
History.QUIET_TTL, History.NOTED_EACH = 2592000000, 64
-- In so many bytes of a call is the name of its task.
History.HEAD = 512

-- Prepares a call. `about` is as above, '' if there is neither a history nor statistics. A worker that settles
-- jobs gives their ids and `rows`; otherwise the rows are made here, and each error is found by the job's outcome
-- in `texts`.
function History.begin(q, about, worker, ids, rows, texts)
  if about == '' then return end
  local parts = cmsgpack.unpack(about)
  q.history = {
    most = parts[1], has_stats = parts[2], tasks = parts[3], errors = parts[4], about = ids and about,
    worker = worker, ids = ids or {}, ends = {}, rows = rows, of = {}, texts = texts or {}, count = 0,
    places = {tasks = {}, errors = {}},
  }
end

-- Adds errors that are known only later, by outcomes.
function History.add_texts(q, texts)
  for outcome, text in pairs(q.history and texts or {}) do q.history.texts[outcome] = text end
end

-- The name of the task of a call, of which the beginning will do: its second item. '' if it cannot be read.
function History.task_in(call)
  if type(call) ~= 'string' or #call < 3 then return '' end
  local first, after = string_at(call, 3)
  return first and after <= #call + 1 and string.sub(call, first, after - 1) or ''
end

-- The name of a job's task.
function History.task_of(q, id, job)
  local call = job[Field.JOB]
  if call == true then call = redis.pcall('GETRANGE', Keys.body(q, id), 0, History.HEAD - 1) end
  return History.task_in(call)
end

-- The place of a text among those of `kind`; it is added if it is not there.
function History.place_of(h, kind, text)
  local place = h.places[kind][text]
  if not place then
    place = #h[kind] + 1
    h[kind][place], h.places[kind][text] = text, place
  end
  return place
end

-- Gathers a job. `at` is its position among the jobs that a worker settles, nil for any other. Of these the worker
-- has said the rest; of others, `task` is the name of the job's task.
function History.note(q, id, letter, at, outcome, task)
  local h = q.history
  if not h then return end
  h.count = h.count + 1
  if at then
    h.ends[at] = letter
    return
  end
  local n, text = #h.ids + 1, h.texts[outcome]
  h.ids[n], h.ends[n] = id, letter
  local error_place = text and History.place_of(h, 'errors', text) or 0
  h.of[n] = struct.pack('>HH', History.place_of(h, 'tasks', task) - 1, error_place)
end

-- Gathers the jobs of a worker that have succeeded: `ends` has their letters by position. `counts` is as above.
function History.note_succeeded(q, ends, count, counts)
  local h = q.history
  if not h then return end
  h.ends, h.count, h.counts = ends, count, counts ~= '' and counts or nil
end

-- Of a job at a position among `count` jobs, the place of its task (from 0) and of its error (0 for none).
function History.places_at(rows, count, at)
  local places = History.TIMES_SIZE * count
  if #rows == places then return 0, 0 end
  return struct.unpack('>HH', rows, places + History.PLACES_SIZE * (at - 1) + 1)
end

-- Adds the attempt that has just failed to the log in the job's record, which has only the last ones: its letter,
-- the worker, when it began (in microseconds) and ended (in ms), how long it ran in ms (below 0 if that is not
-- known), and its error. `at` is as above.
function History.log_attempt(q, job, letter, outcome, at)
  local h = q.history
  if not h then return end
  local text, ran = h.texts[outcome], -1
  if at then
    local _, number = History.places_at(h.rows, #h.ids, at)
    local seconds = struct.unpack('>f', h.rows, History.TIMES_SIZE * (at - 1) + 1)
    text, ran = h.errors[number], seconds < 0 and -1 or math.floor(seconds * 1000)
  end
  Record.widen(job, Field.ATTEMPT_LOG)
  local log = job[Field.ATTEMPT_LOG] or {}
  log[#log + 1] = {letter, job[Field.WORKER] or '', job[Field.STARTED] or 0, q.now, ran, text or ''}
  while #log > History.MOST_ATTEMPTS do table.remove(log, 1) end
  job[Field.ATTEMPT_LOG] = log
end

-- Notes that a job is back in its lane: it waits since now. Without statistics nobody asks.
function History.note_ready(q, job)
  if not q.history then return end
  Record.widen(job, Field.READY)
  job[Field.READY] = q.now
end

-- Adds to counters of a task in a minute or an hour; returns whether they are its first there. `changes` are the
-- words of BITFIELD, the first of them about a counter that counts all that the others count.
function History.count(q, name, ttl, changes)
  local key = Keys.stats(q, name)
  local reply = redis.pcall('BITFIELD', key, unpack(changes))
  if type(reply) ~= 'table' or reply[1] ~= changes[4] then return false end
  redis.pcall('PEXPIRE', key, ttl)
  return true
end

-- Adds to counters of a task; returns whether they are its first in this minute.
function History.count_all(q, task, changes)
  local hour, minute = math.floor(q.now / History.HOUR), math.floor(q.now / History.MINUTE)
  History.count(q, 'h' .. hour .. ':' .. task, History.HOUR_KEPT, changes)
  return History.count(q, 'm' .. minute .. ':' .. task, History.MINUTE_KEPT, changes)
end

-- Counts jobs that were sent.
function History.count_sent(q, count)
  if count > 0 then History.count_all(q, '', {'INCRBY', 'u32', '#' .. History.SENT, count}) end
end

-- Lists a task, as long as its statistics are kept. Of too many tasks those go that have not run for the longest
-- time.
function History.list(q, task)
  redis.pcall('ZADD', q.base .. Keys.TASKS, q.now, task)
  redis.pcall('ZREMRANGEBYSCORE', q.base .. Keys.TASKS, '-inf', q.now - History.HOUR_KEPT)
  redis.pcall('ZREMRANGEBYRANK', q.base .. Keys.TASKS, 0, -1 - History.MOST_TASKS)
  redis.pcall('PEXPIRE', q.base .. Keys.TASKS, History.HOUR_KEPT)
end

-- By letter, the counter of such jobs.
History.COUNTER_OF = {s = 1, f = 2, c = 3, r = 4, x = 5}

-- The bucket of a time.
function History.bucket_of(seconds)
  local bucket = math.ceil(math.log(seconds * 1000) / math.log(History.GROWTH) - History.ROUNDED)
  return math.max(0, math.min(bucket, History.LAST_BUCKET))
end

-- By task, how much is to be added to which counter.
function History.tally(ends, rows)
  local by_task = {}
  for i, letter in ipairs(ends) do
    local what = History.COUNTER_OF[letter]
    if what then
      local task = History.places_at(rows, #ends, i) + 1
      local run, wait = struct.unpack('>ff', rows, History.TIMES_SIZE * (i - 1) + 1)
      local counters = by_task[task] or {}
      by_task[task] = counters
      counters[what] = (counters[what] or 0) + 1
      if run >= 0 then
        local place = History.SUMMED + 2 * History.bucket_of(run)
        counters[place] = (counters[place] or 0) + 1
      end
      if wait >= 0 then
        local place = History.SUMMED + 1 + 2 * History.bucket_of(wait)
        counters[place] = (counters[place] or 0) + 1
      end
    end
  end
  return by_task
end

-- By task, how much is to be added to which counter, out of `counts`.
function History.counted(counts)
  local by_task = cmsgpack.unpack(counts)
  for task, list in ipairs(by_task) do
    local counters = {}
    for i = 1, #list, 2 do counters[list[i]] = list[i + 1] end
    by_task[task] = counters
  end
  return by_task
end

function History.write_stats(q, h, rows)
  local is_new = false
  local by_task = h.counts and History.counted(h.counts) or History.tally(h.ends, rows)
  for number, counters in pairs(by_task) do
    local total, changes, n = 0, {'INCRBY', 'u32', '#0', 0}, 4
    for place, count in pairs(counters) do
      if place < History.SENT then total = total + count end
      changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4] = 'INCRBY', 'u32', '#' .. place, count
      n = n + 4
    end
    changes[4] = total
    local task = h.tasks[number] or ''
    if History.count_all(q, task, changes) then
      History.list(q, task)
      is_new = true
    end
  end
  return is_new
end

-- Adds an entry to the history, and cuts it to its limit. A history in which nothing happens any more expires.
function History.add(q, h, rows, is_quiet)
  local last = redis.pcall('HINCRBY', q.base .. Keys.COUNTERS, 'history', h.count)
  if type(last) ~= 'number' then return end
  if last == h.count then
    -- The counter is new, or was lost: it begins beyond all numbers that were ever given.
    last = q.micros
    redis.pcall('HSET', q.base .. Keys.COUNTERS, 'history', string.format('%.0f', last))
  end
  local about = h.about or cmsgpack.pack({h.most, h.has_stats, h.tasks, h.errors})
  local function add()
    return redis.pcall('XADD', q.base .. Keys.HISTORY, 'MINID', '~', string.format('%.0f', last - h.most + 1),
      string.format('%.0f-%.0f', last, q.now), 'by', h.worker, 'ids', cmsgpack.pack(h.ids),
      'ends', table.concat(h.ends), 'about', about, 'rows', rows)
  end
  local reply = add()
  if type(reply) == 'table' and reply.err and string.find(reply.err, 'smaller', 1, true) then
    -- The counter was lost and the clock was set back: the history begins anew.
    redis.pcall('UNLINK', q.base .. Keys.HISTORY)
    add()
  end
  if is_quiet or last % History.NOTED_EACH < h.count then
    redis.pcall('PEXPIRE', q.base .. Keys.HISTORY, History.QUIET_TTL)
    redis.pcall('PEXPIRE', q.base .. Keys.COUNTERS, History.QUIET_TTL)
  end
end

-- Writes what the call has gathered.
function History.write(q)
  local h = q.history
  if not h or h.count == 0 then return end
  local rows = h.rows or string.rep(struct.pack('>ff', -1, -1), #h.of) .. table.concat(h.of)
  if h.count < #h.ids then
    for i = 1, #h.ids do h.ends[i] = h.ends[i] or '-' end
  end
  local is_quiet = h.has_stats and History.write_stats(q, h, rows)
  if h.most > 0 then History.add(q, h, rows, is_quiet) end
  h.count = 0
end

-- Does the work of a call, and then writes what that has gathered: also if a command for a later job fails,
-- because the jobs before it have ended, and a repeated call gathers them no more.
function History.around(q, work)
  if not q.history then return work() end
  local is_done, problem = pcall(work)
  History.write(q)
  if not is_done then error(problem, 0) end
end
