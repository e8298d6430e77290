-- Takes jobs from the lanes in priority order, marks them running and returns their envelopes.
--
-- An entry is acknowledged here, not at the settle: the jobs that a worker holds are known from its held set and
-- from the records. So an entry is in the stream's pending list only between a blocking read and the claim after
-- it, and whole nodes of the stream can be trimmed, however long a job runs.
--
-- A job is put into the held set, then marked running, then its entry is acknowledged. Wherever the script fails,
-- the job is in the held set or its entry is pending; so the next claim with known jobs, or the recovery, finds
-- it.
--
-- NEEDS: call, keys, record_text_write, record_text_read, record, lanes, standing, timers, hooks, leases, history
-- NEEDS: pauses, due, entries, newer, held_set, events, groups, limits, batches, record_text_limited, rooms
-- NEEDS: lane_reads, record_text_claim
-- USES: reads batch, body, bucket, counters, fetched, flow, group, halted, held, holders, job, lanes, leftovers,
--   limits, listening, named, paused, places, scheduled, schedules, senders, standing, timers, tokens, unique,
--   waiting, watched, workers; writes batch, blocked, bucket, counters, events, flowwork, group, held, holders,
--   idle, job, lanes, leftovers, limits, named, outbox, paused, places, scheduled, senders, standing, timers,
--   tokens, unique, waiting, wakeable, workers; publishes dispatched, room
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 the most jobs to take, and how many of them to take of each lane first, if it has any: '9', or
--   '9 5 3 1'; 3 the known jobs, see below, 4 how the worker waits for jobs after this
--   call when it gets fewer than it asks for: 'idle' if it blocks, 'standing' if it stands, '' if it does not
--   wait, 5 the marks of lib/events.lua, '' for none,
--   and 'w' if sends wait for room (lib/rooms.lua),
--   then three for each entry that a blocking read brought: lane, entry id, ids of its jobs as a MessagePack array
-- REPLY: {-2} if the worker has lost its lease. Else {ms until the next scheduled job, ms until the next tick} (-1
--   for none; and what `Pauses.tell` adds); the number of this claim; 0 or {the last entry that names no job, the
--   last job whose record this version cannot read ('' for none), 1 if the call ended before all lanes were read,
--   else 0}; and per job its id, envelope, time of sending, and 0 for a first claim, 1 for that of a job with a
--   unique key, 2 with limits, or else {claims, attempts, crashes, interruptions, when it came back to its lane (0
--   if that was not noted), its tags, 1 if it has a unique key, 1 if it has limits}, of which the last four are
--   there if they are needed
--
-- The known jobs are '' or a MessagePack array with the ids of all jobs that the worker knows it holds. With such
-- an array the call also returns the jobs that the worker holds or was sent without knowing, because a reply was
-- lost. If the held set is gone, the known jobs are put into it again. If the worker knows very many jobs, the
-- caller has already compared them with the held set, and this is a map with some jobs that the worker holds
-- without knowing (`missed`).
local worker, count, shares = ARGV[1], tonumber(ARGV[2]), nil
if not count then
  shares = {}
  for number in string.gmatch(ARGV[2], '%d+') do shares[#shares + 1] = tonumber(number) end
  count = table.remove(shares, 1)
end
local lost, is_marked, lease_end = Leases.is_lost(q, worker)
-- While the whole queue is paused, jobs that were delivered to this worker stay where they are.
local pauses = is_marked and not lost and Pauses.now(q, ARGV[5]) or nil
local is_paused = pauses and pauses.queue
if is_marked and lease_end and not lost and not pauses then
  redis.call('ZADD', q.base .. Keys.WORKERS, 'XX', lease_end - lease_end % 1, worker)
end

-- No further job is taken once the reply has this many bytes of envelopes, so that it arrives in time over a slow
-- network too.
local CLAIM_LIMIT = 1048576
-- The script does not know how many jobs an entry names. So it reads one entry first, and then GROWTH times as
-- many at most each time, up to MOST. A `rest` is read ALL at once.
local GROWTH, MOST, ALL = 4, 100, 1000
-- The most jobs, and entries without a job, that a call skips: these take some milliseconds. A lane may have
-- 300,000 cancelled jobs. A large record counts as one job for each LARGE bytes, because it takes as long to read.
local SKIPPED_LIMIT, LARGE = 2000, 1024
-- As how many skipped jobs one counts that is set aside: it takes longer. One that stays there counts as two.
local ASIDE_COST = 4
-- The most jobs, and entries without a job, that are taken of what was delivered to the worker: a wait brings nine
-- entries at most.
local DELIVERED_LIMIT = 3000
local recheck, known, missed = ARGV[3] ~= '', {}, nil
if recheck then
  local held = cmsgpack.unpack(ARGV[3])
  missed = held.missed
  for _, id in ipairs(held) do known[id] = true end
end

local number = q.micros -- of this claim, see lib/record.lua
local reply, taken, bytes, skipped, delivered = {0, number, 0}, 0, 0, 0, 0
local marked, held = {}, {}
-- What serves groups of jobs that wait (lib/groups.lua): functions, the groups `served` and the places of tokens
-- `spent` since the last `write_taken`; by group, what was read `ahead`; and what a token that `counts` is for.
local serving, NONE = {served = {}, spent = {}, ahead = {}, counts = {}}, {}
Permits.begin_claim(q)
-- By stream, the jobs of paused tasks that this call sets aside; the stream that it takes jobs from; and whether
-- an entry of what was set aside names a job that stays there.
local put_aside, source, stays, is_accepting = {}, '', false, false
-- How many jobs this call has put there that may run.
local for_others = 0
-- By lane, how many ids fewer its entries name beside those of its queued jobs (lib/lanes.lua); and how many jobs
-- were passed that are named again.
local passed, named_again = {}, 0
local function pass(lane, count)
  if count ~= 0 then passed[lane] = (passed[lane] or 0) + count end
end
-- The last entry that is not aioq's, and the last job whose record this version cannot read.
local malformed, unreadable = '', ''

local function ids_of(entry)
  local ids, wrong = Entries.named_by(entry)
  malformed = wrong or malformed
  return ids
end

-- Whether the call has taken all jobs that it was asked for, or has reached a limit.
local function is_full() return taken >= count or bytes >= CLAIM_LIMIT or skipped >= SKIPPED_LIMIT end
local run = run_by(worker, RUNNING) .. cmsgpack.pack(number)

local function add_to_reply(id, envelope, sent, past, text)
  taken, bytes = taken + 1, bytes + #envelope
  marked[#marked + 1], marked[#marked + 2] = Keys.job(q, id), text
  held[#held + 1] = id
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = id, envelope, sent, past
end

-- Where a job of the stream `source` is set aside. What comes from the front of its lane is set aside there only
-- if it was claimed before. Else it was moved there from an entry of the lane that was taken in part, and so comes
-- after what was set aside of the lane.
local function aside_for(was_claimed)
  return Keys.aside_of(was_claimed and Keys.is_front(source) and source or Keys.lane_of(source))
end

-- Whether a queued job may not be taken now, because its task is paused: then it is set aside, or stays so. A
-- queued job that the worker holds is one that a claim could not take because it failed: an entry names it, which
-- is met later. While jobs come back from where such a job would be set aside, those that were delivered or are in
-- the front go there too: this call takes them after the others.
local function is_set_aside(id, call, is_held, was_claimed)
  if not pauses then return false end
  local stream = aside_for(was_claimed)
  local is_later = (is_accepting or Keys.is_front(source)) and pauses.aside[stream]
  local must_stay = is_paused or pauses.tasks[History.task_in(call)]
  if not must_stay and (is_held or not is_later) then return false end
  if is_held then return true end
  if must_stay then known[id], stays = 'aside', true else for_others = for_others + 1 end
  if not pauses.aside[source] then
    put_aside[stream] = put_aside[stream] or {}
    table.insert(put_aside[stream], id)
    named_again = named_again + 1
    skipped = skipped + ASIDE_COST - 1 -- whoever asks counts it once
  else
    skipped = skipped + 1
  end
  return true
end

-- Handles a record that this version cannot read. If the job is not queued, its entry is only a leftover.
local function put_off_unreadable(id, text)
  local state = Newer.state_of(q, id, text)
  if state == 'queued' or state == 'unknown' then
    Newer.put_off(q, id)
    named_again = named_again + 1
    unreadable = id
  end
  return false
end

-- Takes a job that may run, alone or with the others of a batch; returns whether its hooks permit that.
function serving.run(id, job, envelope, orphan, batch)
  if not Hooks.run(q, 'start', id, job) then return false end
  known[id] = 'taken'
  if batch and job[Field.EXTRA].batch[3] < 0 then Batches.hurry(job) end
  if orphan then
    Record.widen(job, Field.CRASHES)
    job[Field.CRASHES] = (job[Field.CRASHES] or 0) + 1
  end
  local claims = (job[Field.CLAIM] or 0) + 1
  Record.widen(job, Field.STARTED)
  job[Field.STATE], job[Field.WORKER], job[Field.CLAIM], job[Field.STARTED] = 'running', worker, claims, number
  local past = {claims, job[Field.ATTEMPTS] or 0, job[Field.CRASHES] or 0, job[Field.INTERRUPTIONS] or 0}
  if job[Field.READY] then past[5] = job[Field.READY] end
  if job[Field.EXTRA] then past[5], past[6] = job[Field.READY] or 0, job[Field.EXTRA].tags end
  local lock, limits = job[Field.EXTRA] and job[Field.EXTRA].unique, Use.of(job)
  local is_unique = lock and not Unique.asks(lock)
  if is_unique or limits then past[6], past[7] = past[6] or {}, is_unique and 1 or 0 end
  if limits then past[8] = 1 end
  if batch then past[6], past[7], past[8], past[9] = past[6] or {}, past[7] or 0, 0, batch end
  local flow = job[Field.EXTRA] and job[Field.EXTRA].flow
  if flow then
    past[6], past[7], past[8], past[9] = past[6] or {}, past[7] or 0, past[8] or 0, past[9] or ''
    past[10] = flow[1]
  end
  add_to_reply(id, envelope, job[Field.SENT], past, cmsgpack.pack(job))
  return true
end

-- What waits for batches and was met by this call, by its name (lib/batches.lua): the `ids`, the records of those
-- that were read, the ids of `fresh` ones, which come from a lane, and of those that are `gone` from there.
local batches = {met = {}}
function batches.of(name, size)
  if not batches.met[name] then
    batches.met[name] = {ids = Batches.waiting(q, name, size), jobs = {}, fresh = {}, gone = {}, bytes = 0}
  end
  return batches.met[name]
end

-- Takes the first ones of what waits, as many as a batch may have.
function batches.take(name)
  local waits, before, batch, total, count_in = batches.of(name, 0), taken, nil, 0, 0
  local unread, left, bytes_left = {}, {}, 0
  for _, id in ipairs(waits.ids) do
    if not waits.jobs[id] then unread[#unread + 1] = id end
  end
  for id, job in pairs(unread[1] and Record.load_all(q, unread) or {}) do
    if job[Field.STATE] == 'waiting' and job[Field.EXTRA] and job[Field.EXTRA].batch then waits.jobs[id] = job end
  end
  skipped = skipped + #unread * ASIDE_COST
  for _, id in ipairs(waits.ids) do
    local job = waits.jobs[id]
    local envelope = job and known[id] ~= 'taken' and Record.whole(q, id, job[Field.JOB])
    local most = job and job[Field.EXTRA].batch
    if envelope and (left[1] or count_in == most[2] or batch and total + #envelope > most[4]) then
      left[#left + 1], bytes_left = id, bytes_left + #envelope
    else
      if job and not envelope and known[id] ~= 'taken' then Timer.set(q, Timer.CALL_GONE, id, q.now) end
      if envelope and serving.run(id, job, envelope, false, batch or id) then
        batch, total, count_in = batch or id, total + #envelope, count_in + 1
      elseif waits.fresh[id] then
        named_again = named_again - 1 -- it is about to end, and is queued until then
      end
      waits.gone[#waits.gone + 1] = id
    end
  end
  waits.ids, waits.bytes, taken = left, bytes_left, batch and before + 1 or before
  if batch then named_again = named_again - 1 end -- each of its jobs has been counted there
end

-- Puts a job that was met in its lane to those that wait, and takes them if there are enough.
function batches.gather(id, job, envelope)
  local name, batch = Batches.name_of(job), job[Field.EXTRA].batch
  local waits = batches.of(name, batch[2])
  waits.ids[#waits.ids + 1], waits.jobs[id], waits.fresh[id] = id, job, true
  waits.bytes = waits.bytes + #envelope
  known[id] = 'waits'
  named_again, skipped = named_again + 1, skipped + ASIDE_COST
  if #waits.ids >= batch[2] or waits.bytes >= batch[4] then batches.take(name) end
end

-- Takes what an entry stands for. If its task is paused, all of it is queued again, and set aside.
function batches.take_token(name)
  local ids = batches.of(name, Batches.MOST).ids
  local jobs, first = pauses and Record.load_all(q, ids) or {}, nil
  for _, id in ipairs(ids) do
    if jobs[id] and jobs[id][Field.STATE] == 'waiting' then first = first or id else jobs[id] = nil end
  end
  local call = first and Record.whole(q, first, jobs[first][Field.JOB])
  if not call or not pauses.tasks[History.task_in(call)] then return batches.take(name) end
  local together, changed = {}, {}
  for _, id in ipairs(ids) do
    if jobs[id] then
      together[#together + 1] = id
      jobs[id][Field.STATE] = false
      changed[#changed + 1], changed[#changed + 2] = id, jobs[id]
    end
  end
  Lanes.write_all(q, Keys.aside_of(Batches.lane_of(name)), together, 1)
  Record.save_all(q, changed)
  Batches.forget(q, name, ids)
  batches.met[name] = nil
end

-- Writes what waits now, once the records say what was taken.
function batches.write()
  for name, waits in pairs(batches.met) do
    local fresh = {}
    for _, id in ipairs(waits.ids) do
      if waits.fresh[id] then fresh[#fresh + 1] = id end
    end
    if fresh[1] then Batches.wait(q, name, fresh, waits.jobs) end
    if waits.gone[1] then
      Batches.forget(q, name, waits.gone)
      if waits.ids[1] then Timer.set(q, Timer.BATCH, name, Batches.due(waits.ids, waits.jobs) or q.now) end
    end
    waits.fresh, waits.gone = {}, {}
  end
end

-- Takes a job whose record is not a fresh one, if it may be taken: it may have been cancelled or have expired, or
-- may have two entries. `is_held`: the job comes from the worker's held set. `lane`: that of its entry; if the job
-- was moved to another lane since, it is taken there. Returns whether it was taken.
local function take_other(id, text, is_held, lane)
  local job = Record.unpacked(text)
  if not job then return not is_held and put_off_unreadable(id, text) end
  local unknown = recheck and job[Field.STATE] == 'running' and job[Field.WORKER] == worker and not known[id]
  local orphan = job[Field.STATE] == 'running' and job[Field.WORKER] ~= worker and Newer.is_orphan(q, job)
  if job[Field.STATE] and not unknown and not orphan then return false end
  if lane and not job[Field.STATE] and (job[Field.LANE] or Keys.NORMAL) ~= lane then return false end
  local envelope = Record.whole(q, id, job[Field.JOB])
  if not envelope then
    -- The envelope was evicted or deleted by hand, so the job cannot run. A timer ends it and notifies its
    -- waiters.
    Timer.set(q, Timer.CALL_GONE, id, q.now)
    if job[Field.STATE] then
      job[Field.STATE], job[Field.WORKER] = false, false
      Record.save(q, id, job)
      redis.call('SREM', Keys.held(q, worker), id)
      if is_held then pass(job[Field.LANE] or Keys.NORMAL, 1) end -- its end takes it for one that has an entry
    end
    return false
  end
  if not unknown and is_set_aside(id, envelope, is_held, job[Field.CLAIM]) then return false end
  if Use.of(job) and not job[Field.STATE] then
    if is_held or Hooks.has_expired(q, id, job[Field.EXTRA]) then return false end -- its entry is met later
    -- One that was never claimed comes after those that wait, also if it was delivered to somebody else before.
    if not Limits.admit(q, id, job, Keys.is_front(source) and job[Field.CLAIM]) then
      Record.save(q, id, job)
      named_again = named_again + 1
      return false
    end
  end
  if not is_held and not job[Field.STATE] and job[Field.EXTRA] and job[Field.EXTRA].batch then
    batches.gather(id, job, envelope)
    return true
  end
  return serving.run(id, job, envelope, orphan)
end

-- Takes a job, or counts it as skipped. `text` is the value of the job's key: false for none or for another type,
-- nil if the key is known not to exist.
local function take(id, text, is_held, lane)
  if not text and string.byte(id) == 31 then
    batches.take_token(string.sub(id, 2))
  elseif known[id] == 'aside' then
    stays = true -- the call has met it before, in another entry
  elseif text ~= nil and known[id] ~= 'taken' and known[id] ~= 'waits' then
    local envelope, sent, record, lock = ClaimText.begin(text, run)
    if envelope and not is_set_aside(id, envelope, is_held) then
      known[id] = 'taken'
      if lock and lock[2] == 'started' then Hooks.give_back(q, id, lock) end
      return add_to_reply(id, envelope, sent, lock and 1 or 0, record)
    end
    if not envelope and take_other(id, text, is_held, lane) then return end
  end
  skipped = skipped + 1 + math.floor(#(text or '') / LARGE)
end

-- Gives a group that was served a token if more of its jobs may run, or notes that they wait.
function serving.wake(each)
  if each.is_stuck then return end
  local has_more, room = each.has_more or each.met < #each.ids, q.rooms[each.group]
  if has_more and room and room <= 0 then return Groups.block(q, each.group) end
  local numbers = Numbers.of_group(q, each.group, each.limit)
  if has_more and numbers[2] == 0 and Permits.room(q, each.group, numbers, each.limit) <= 0 then
    return Groups.block(q, each.group)
  end
  Limits.wake(q, each.group)
end

-- Takes the jobs that were taken out of their groups, once their records say so; and gives groups that have more
-- jobs which may run a token.
function serving.leave_groups()
  local groups, gone = serving.served, {}
  serving.served = {}
  for _, each in ipairs(groups) do
    for id, job in pairs(each.queued or NONE) do Record.save(q, id, job) end
    for _, id in ipairs(each.gone) do gone[#gone + 1] = id end
  end
  in_chunks(gone, function(...) redis.call('SREM', q.base .. Keys.WAITING, ...) end)
  for _, each in ipairs(groups) do
    Groups.remove(q, each.group, each.gone)
    if each.moved then Groups.remove(q, each.group, each.moved) end
  end
  for _, each in ipairs(groups) do serving.wake(each) end
end

-- Writes the held set and the records of the jobs taken so far, and what was set aside; called before their
-- entries are acknowledged.
local function write_taken()
  for stream, ids in pairs(put_aside) do Lanes.write_all(q, stream, ids, 1) end
  put_aside = {}
  if #held > 0 then redis.call('SADD', Keys.held(q, worker), unpack(held)) end
  if next(q.given) then Permits.write_given(q) end
  if #held > 0 then
    Record.set_all(marked)
    marked, held = {}, {}
  end
  if serving.served[1] then serving.leave_groups() end
  if serving.spent[1] then
    Groups.forget(q, serving.spent)
    serving.spent = {}
  end
  Groups.flush_marks(q)
  if next(batches.met) then batches.write() end
end

-- Takes a job as most are, whose record is read as text, if it may run; returns whether it has.
function serving.take_first(each, id, text)
  if not text or pauses or known[id] and known[id] ~= true then return false end
  each.tail, each.lone = each.tail or LimitText.tail_of(each.group), each.lone or Numbers.lone_of(q, each.limit)
  local envelope, sent, limits, record = LimitText.begin_first(text, each.tail, run)
  local numbers = envelope and Numbers.lone_numbers(q, limits, each.lone)
  if not numbers or Permits.room(q, each.group, numbers, each.limit) <= 0 then return false end
  q.admitted[id], known[id] = true, 'taken'
  if numbers[1] > 0 then Permits.hold(q, each.group, id) end
  add_to_reply(id, envelope, ClaimText.time_at(text, sent), 2, record)
  return true
end

-- Lets a group wait whose next job this version cannot read: the group gets its token again later, for another
-- worker may.
function serving.put_off_unreadable(group, id)
  unreadable = id
  Groups.block(q, group)
  Limits.look_again(q, group, (q.now + Newer.PUT_OFF) * 1000)
end

-- Takes one of the jobs that wait in a group, if it may run. Returns what becomes of it there: `gone`, `moved` to
-- another group, or nil if it stays.
function serving.take(each, id, text)
  if serving.take_first(each, id, text) then return 'gone' end
  local job = Record.unpacked(text)
  if not job then return not text and 'gone' or serving.put_off_unreadable(each.group, id) end
  local waits = Groups.of(job) == each.group and (not job[Field.STATE] or job[Field.STATE] == 'waiting')
  -- The worker may know it: the server has applied its settlement, and the reply was lost. Then it is taken anew.
  local is_met = known[id] and known[id] ~= true
  if not waits or is_met or Hooks.has_expired(q, id, job[Field.EXTRA]) then return 'gone' end
  local envelope = Record.whole(q, id, job[Field.JOB])
  if not envelope then
    Timer.set(q, Timer.CALL_GONE, id, q.now)
    return 'gone'
  end
  source = job[Field.LANE] or Keys.NORMAL
  if is_set_aside(id, envelope, false, false) then
    Limits.give_back(q, id, Use.of(job))
    job[Field.STATE], job[Field.EXTRA].waits = false, nil
    each.queued = each.queued or {}
    each.queued[id] = job
    return 'gone'
  end
  if not Limits.admit(q, id, job, false) then
    if Groups.of(job) == each.group then return nil end
    Record.save(q, id, job)
    return 'moved'
  end
  job[Field.EXTRA].waits = nil
  return serving.run(id, job, envelope, false) and 'gone' or nil
end

-- Reads the ids of as many jobs of a group as may run, of a lane and of those that are served before it.
function serving.read(group, lane, limit)
  local numbers, most = Numbers.simple(q, limit), nil
  if numbers then most = Permits.simple_room(q, group, numbers) else most = Limits.most(q, group, limit) end
  if most > count - taken then most = count - taken end
  local each = {group = group, limit = limit, gone = {}, ids = NONE, met = 0}
  if most > 0 then each.ids, each.has_more = Groups.first(q, group, lane, most) end
  return each
end

-- Reads what these tokens are for, as far as there are jobs enough: so all records are read by one command.
function serving.look_ahead(tokens)
  local places, met, ids, ahead, wanted = {}, {}, {}, {}, count - taken
  for i, token in ipairs(tokens) do
    local serial, lane, group, limit = Groups.parts(token)
    places[i] = lane and lane .. ' ' .. group or ''
    met[i] = {serial, lane, group, places[i], limit}
  end
  for i, noted in ipairs(Groups.noted(q, places)) do
    local one = met[i]
    local group, is_met = one[3], one[3] and Groups.counts(q, one[1], noted)
    serving.counts[tokens[i]] = is_met and one or false
    if is_met and wanted > 0 and not ahead[group] then
      local each = serving.read(group, one[2], one[5])
      ahead[group], wanted = each, wanted - #each.ids
      for _, id in ipairs(each.ids) do ids[#ids + 1] = id end
    end
  end
  local texts = texts_of(q, ids)
  for _, each in pairs(ahead) do each.texts = texts end
  serving.ahead = ahead
end

-- Takes as many jobs of a group as may run, of a lane and of those that are served before it.
function serving.group(group, lane)
  local each, before = serving.ahead[group], source
  serving.ahead[group] = nil
  if not each or q.joined[group] then each = serving.read(group, lane, Groups.limit_of(group)) end
  each.texts = each.texts or texts_of(q, each.ids)
  serving.served[#serving.served + 1] = each
  local first = each.limit == Use.FAIR and Record.unpacked(each.texts[each.ids[1]])
  if first and Use.weight(first) > 1 then
    each.ids, each.has_more = Groups.first(q, group, lane, math.min(count - taken, Use.weight(first)))
    each.texts = texts_of(q, each.ids)
  end
  for _, id in ipairs(each.ids) do
    if is_full() then break end
    local became = serving.take(each, id, each.texts[id])
    if not became then
      each.is_stuck = true
      break
    end
    each.met = each.met + 1
    if known[id] ~= 'taken' then skipped = skipped + ASIDE_COST end
    each[became] = each[became] or {}
    each[became][#each[became] + 1] = id
  end
  source = before
end

-- Serves the group whose token this is. A token is not counted among what jobs leave in their lanes.
function serving.token(token)
  local met, named_before, before = serving.counts[token], named_again, taken
  if met then
    serving.spent[#serving.spent + 1] = met[4]
    serving.group(met[3], met[2])
  end
  skipped = skipped + (taken == before and ASIDE_COST or 1)
  named_again = named_before + 1 - (taken - before)
end

-- Serves groups of a lane that were served before and have more jobs which may run, in turn.
function serving.serve_again(lane)
  while not is_full() do
    local group = Groups.next_gathered(q, lane)
    if not group then return end
    serving.group(group, lane)
    skipped = skipped + 1
    write_taken()
  end
end

-- The texts of the records of jobs; what tokens among them are for is read ahead.
function serving.texts_of(ids)
  local jobs, tokens = {}, {}
  for _, id in ipairs(ids) do
    if string.byte(id) == Lanes.TAB then tokens[#tokens + 1] = id else jobs[#jobs + 1] = id end
  end
  if not tokens[1] then return texts_of(q, ids) end
  serving.look_ahead(tokens)
  return texts_of(q, jobs)
end

-- Some of these texts are false. If none of their keys exists, which one command shows, they become nil.
local function find_missing(ids, texts)
  local missing = {}
  for _, id in ipairs(ids) do
    if texts[id] == false then missing[#missing + 1] = Keys.job(q, id) end
  end
  if missing[1] and redis.call('EXISTS', unpack(missing)) == 0 then
    for _, id in ipairs(ids) do texts[id] = texts[id] or nil end
  end
end

-- Takes as many of the jobs of a stream's entries as possible; returns the position of the first one that is left.
-- `lane` is that of the stream.
local function take_all(stream, ids, lane)
  local first, most, named_before, taken_before = 1, count - taken, named_again, taken
  source, stays = stream, false
  while first <= #ids and not is_full() do
    local some, before = {unpack(ids, first, math.min(#ids, first + most - 1))}, taken
    local texts, looked = serving.texts_of(some), false
    for _, id in ipairs(some) do
      if taken >= count or bytes >= CLAIM_LIMIT or skipped >= SKIPPED_LIMIT then break end
      if serving.counts[id] ~= nil then
        serving.token(id)
      else
        if not texts[id] and not looked then
          find_missing(some, texts)
          looked = true
        end
        take(id, texts[id], false, lane)
      end
      first = first + 1
    end
    most = taken == before and math.min(most * GROWTH, MOST) or count - taken
  end
  write_taken()
  -- What was set aside is named until its entry is deleted.
  if not (pauses and pauses.aside[stream]) then
    pass(lane, first - 1 - (taken - taken_before) - (named_again - named_before))
  end
  return first
end

-- Sets aside what is left of an entry that was delivered to this worker, if some of that has to be; returns
-- whether it was. The others of the entry that a claim may take are set aside with those, to keep their order: the
-- next claims look there for them.
local function set_left_aside(left)
  if not pauses or not left[1] then return false end
  local texts, together, stream = texts_of(q, left), {}, nil
  for _, id in ipairs(left) do
    local job = Record.unpacked(texts[id])
    local orphan = job and job[Field.STATE] == 'running' and Newer.is_orphan(q, job)
    if job and (orphan or not job[Field.STATE]) then
      local call, was_claimed = Record.whole(q, id, job[Field.JOB]), job[Field.CLAIM]
      together[#together + 1] = id
      if is_set_aside(id, call, false, was_claimed) then stream = aside_for(was_claimed) end
    elseif not job and texts[id] then
      together[#together + 1] = id -- a record that this version cannot read
    end
  end
  if not stream then return false end
  pass(Keys.lane_of(source), #left - #together)
  local others, key, before = #together - #put_aside[stream], Keys.lane(q, stream), nil
  put_aside[stream], for_others = together, for_others + others
  if others > 0 and not pauses.aside[stream] then before = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1) end
  write_taken()
  if before then
    pauses.aside[stream] = before[1] and before[1][1] or '0-0'
    redis.call('HSET', q.base .. Keys.PAUSED, 'aside ' .. stream, pauses.aside[stream])
  end
  return true
end

-- Takes an entry that was delivered to this worker. A wait brings one entry from each lane that has any, so there
-- may be more jobs than free slots: the others go back to the front of their lane, or are set aside. All go back
-- if the lease is lost.
local function accept(name, entry, ids)
  local lane = Keys.lane(q, name)
  local pending = redis.pcall('XPENDING', lane, Keys.GROUP, entry, entry, 1)
  -- If the entry is not pending, another worker has recovered it meanwhile.
  if is_unreadable(pending) or not pending[1] then return end
  if lost then Hooks.run_returned(q, ids) end
  is_accepting = true
  local left = {unpack(ids, lost and 1 or take_all(name, ids, Keys.lane_of(name)))}
  for _, id in ipairs(set_left_aside(left) and {} or left) do Lanes.push(q, Keys.lane_of(name), id, true) end
  is_accepting = false
  redis.call('XACK', lane, Keys.GROUP, entry)
  redis.call('XDEL', lane, entry)
end

for i = 6, #ARGV, 3 do
  if not is_paused then accept(ARGV[i], ARGV[i + 1], cmsgpack.unpack(ARGV[i + 2])) end
end
redis.pcall('ZREM', q.base .. Keys.IDLE, worker)
local was_woken, is_served = ARGV[4] == 'standing' and Standing.leave(q, worker), false
if lost then return {-2} end

if recheck and not missed and redis.call('EXISTS', Keys.held(q, worker)) == 0 then
  local ids = {}
  for id in pairs(known) do ids[#ids + 1] = id end
  HeldSet.restore(q, worker, ids)
end

-- Jobs that already belong to this worker come before new ones, however long the lanes are.
if recheck then
  for _, name in ipairs(is_paused and {} or Keys.LANES) do
    repeat
      local entries = LaneReads.read(q, worker, Keys.lane(q, name), '0', MOST)
      for _, entry in ipairs(entries) do
        if delivered >= DELIVERED_LIMIT then break end
        local named = ids_of(entry)
        accept(name, entry[1], named)
        delivered = delivered + math.max(#named, 1)
      end
    until #entries < MOST or skipped >= SKIPPED_LIMIT or delivered >= DELIVERED_LIMIT
  end
  for _, id in ipairs(missed or redis.call('SRANDMEMBER', Keys.held(q, worker), HeldSet.CHECKED)) do
    if is_full() then break end
    if not known[id] then
      local text = redis.pcall('GET', Keys.job(q, id))
      take(id, not is_unreadable(text) and text, true)
    end
  end
  write_taken()
end

-- Takes the jobs of tasks that are not paused any more from what was set aside of a stream. Those that were not
-- come from entries which stay.
local function take_set_aside(stream, lane)
  local name, key, done = 'aside ' .. stream, Keys.lane(q, stream), {}
  local last, is_over, most = pauses.aside[stream], false, 1
  while last and not is_over and not is_full() do
    local entries = redis.pcall('XRANGE', key, '(' .. last, '+', 'COUNT', most)
    if is_unreadable(entries) then entries = {} end
    is_over, most = #entries < most, math.min(most * GROWTH, MOST)
    for _, entry in ipairs(entries) do
      local ids, before = Entries.named_by(entry), taken
      local is_cut = take_all(stream, ids, lane) <= #ids
      pass(lane, (is_cut or stays) and before - taken or #ids - (taken - before))
      if is_cut then
        is_over = false
        break
      end
      if not stays then done[#done + 1] = entry[1] end
      last = entry[1]
    end
    if done[1] then redis.call('XDEL', key, unpack(done)) end
    done = {}
  end
  if is_over then
    if redis.pcall('XLEN', key) == 0 then redis.call('DEL', key) end
    redis.call('HDEL', q.base .. Keys.PAUSED, name)
    pauses.aside[stream] = nil
  elseif last and last ~= pauses.aside[stream] then
    redis.call('HSET', q.base .. Keys.PAUSED, name, last)
  end
end

-- Takes jobs of a stream, until the call has all that it is to take of it.
local function serve(name)
  local lane, most = Keys.lane(q, name), Keys.is_rest(name) and ALL or 1
  while not is_full() do
    local entries = LaneReads.read(q, worker, lane, '>', most)
    local is_empty = #entries < most
    if #entries > 0 then
      is_served = true
      local ids, names, lasts, before = {}, {}, {}, taken
      for i, entry in ipairs(entries) do
        local named = ids_of(entry)
        if not named[1] then skipped = skipped + 1 end
        for _, id in ipairs(named) do ids[#ids + 1] = id end
        names[i], lasts[i] = entry[1], #ids
      end
      local left = take_all(name, ids, Keys.lane_of(name))
      local last, has_others = LaneReads.put_back(q, name, ids, left, names, lasts)
      redis.call('XACK', lane, Keys.GROUP, unpack(names))
      LaneReads.trim(lane, last, is_empty and not has_others)
      -- As many entries as are needed if each names as many jobs as these do; more if none of these jobs was
      -- taken.
      local wanted = taken == before and MOST or math.ceil((count - taken) * #entries / math.max(#ids, 1))
      most = math.max(1, math.min(most * GROWTH, MOST, wanted))
    end
    if is_empty then break end
  end
  if name == Keys.lane_of(name) then serving.serve_again(name) end
  if pauses and Keys.is_front(name) then
    take_set_aside(Keys.aside_of(name), Keys.lane_of(name))
    take_set_aside(Keys.aside_of(Keys.lane_of(name)), Keys.lane_of(name))
  end
end

local streams, most_of_all = is_paused and {} or Keys.LANES, count
-- Each lane has three streams. Where a lane has less than its share, the others get that below.
for i = 1, shares and #streams or 0 do
  if i % 3 == 1 then count = math.min(most_of_all, taken + shares[(i + 2) / 3]) end
  serve(streams[i])
end
count = most_of_all
for _, name in ipairs(streams) do serve(name) end

-- The groups get their tokens once the lanes were trimmed.
for _, lane in ipairs(Groups.LANES) do serving.serve_again(lane) end
serving.has_more = Groups.give_gathered(q)

-- What has waited for a batch for long enough.
for name, waits in pairs(batches.met) do
  local due = Batches.due(waits.ids, waits.jobs)
  if due and due <= q.now and not is_full() then batches.take(name) end
end
if next(batches.met) then write_taken() end

-- A job that was started may have let another one follow, in a lane that was read before.
if q.has_followed then serving.has_more = true end

-- Wakes as many workers as there are jobs that this call has put aside, and left there for others.
if is_full() then
  for _ = 1, math.min(for_others, Lanes.SHARING) do Lanes.push(q, Keys.NORMAL, '', false) end
end
-- If it is not full, all lanes were read to their end.
if is_paused then
  -- The worker waits until it is notified, and nobody is woken in its place.
elseif ARGV[4] ~= '' and not is_full() and not serving.has_more then
  redis.pcall('ZADD', q.base .. Keys.IDLE, q.now, worker)
  if ARGV[4] == 'standing' then Standing.join(q, worker) end
elseif was_woken and not is_served then
  Standing.wake(q, 1, 1) -- another worker takes the entry for which this one was woken
end
if taken > 0 and Events.are_recorded(q, ARGV[5]) then
  local taken_ids, calls = {}, {}
  for i = 4, #reply, 4 do taken_ids[#taken_ids + 1], calls[#calls + 1] = reply[i], reply[i + 1] end
  Events.add_calls(q, 'b', worker, taken_ids, calls)
end
for lane, number in pairs(passed) do Lanes.leave(q, lane, -number) end
if string.find(ARGV[5], 'w', 1, true) then Rooms.tell(q) end
local is_cut = skipped >= SKIPPED_LIMIT or delivered >= DELIVERED_LIMIT or bytes >= CLAIM_LIMIT
  or serving.has_more and not is_full()
if malformed ~= '' or unreadable ~= '' or is_cut then reply[3] = {malformed, unreadable, is_cut and 1 or 0} end
reply[1] = Pauses.tell(q, Due.times(q), pauses)
return reply
