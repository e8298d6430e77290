-- Adds jobs whose id the queue does not have yet.
--
-- The records are written last, and all at once. If the script fails before, there are only entries or due times
-- without a record, which are ignored: no job has a record without being queued.
--
-- Its arguments are few, and long; docs/design.md, "An enqueue has few arguments, and long ones".
--
-- NEEDS: keys, msgpack, record_text_write, record_text_unique, record, lanes, dead, history, events, unique, size
-- NEEDS: adding, dispatch, rooms
-- USES: reads batch, body, bucket, counters, flow, group, halted, holders, idle, job, lanes, leftovers, limits,
--   listening, named, places, schedule, scheduled, senders, standing, timers, tokens, tombstone, unique, waiting,
--   workers; writes batch, blocked, body, bucket, cancel, counters, dead, events, flowwork, group, held, history,
--   holders, idle, job, lanes, leftovers, limits, named, outbox, places, schedule, scheduled, senders, standing,
--   stats, tasks, timers, tokens, tombstone, unique, waiting, wakeable; publishes dispatched, room, waiter, worker
-- KEYS: 1 base key
-- ARGV: 1 'again' if an earlier call may have added these jobs, else ''; then, if the call of one of them may take
--   the place of another job's, or a limit may end a job, for how many ms after its send a job must be found;
--   then, if the queue has a bound, a blank, how many jobs may be in it and, if the send waits for room, a blank,
--   the name of its place (lib/rooms.lua), a colon and how many jobs wait there beside these; and, if a limit may
--   end a job, after a line break how long its outcome is kept in ms, a space, and `about` of lib/history.lua;
--   2 a MessagePack array with the nonce of each send, '' if no id can be used twice;
--   3 a MessagePack array with three items for each job: lane ('' for normal), due ('' for at once, '+N' for N ms
--   from now, or the time in ms since the epoch), EXTRA (false for none); or '' if all jobs are plain: normal and
--   at once; or with two items for each, if some of them have a unique key, of which no two are the same, and are
--   plain else: the key ('' for none), and until when it is held and what becomes of a conflict, separated by a
--   space ('ended return'; '' for none); 4 the channel of a process that will wait for these jobs, '' for none;
--   5 the envelopes, joined; 6 the length of each in bytes, as a MessagePack array;
--   7 the common prefix of all ids; 8 how many bytes each id has after it; 9 these rests, joined. If the ids do
--   not have equal lengths, these three are '', zero and the ids as a MessagePack array;
--   10 the marks of lib/events.lua, '' for none
-- REPLY: the positions (from 1) of the jobs whose ids existed already, except those that the earlier call has
-- added; for each job whose unique key another one holds, an array with its position and that job; and for each
-- that the queue had no room for, an array with its position and how many jobs are in the queue
local again, tombstone, most = string.match(ARGV[1], '^(%a*)(%d*) ?(%d*)')
again, tombstone, most = again == 'again', tonumber(tombstone), tonumber(most)
local place, behind = string.match(ARGV[1], '^%a*%d* %d+ (%S+):(%d+)')
local ttl, about = string.match(ARGV[1], '\n(%d+) (.*)$')
local nonces = ARGV[2] ~= '' and cmsgpack.unpack(ARGV[2]) or nil
local places = ARGV[3] ~= '' and cmsgpack.unpack(ARGV[3]) or nil
local watched = ARGV[4] ~= '' and packed(ARGV[4]) or nil
-- Two long arguments instead of two for each job: cutting them here takes less time than reading many arguments.
local envelopes, sizes = ARGV[5], cmsgpack.unpack(ARGV[6])
local prefix, width, ends = ARGV[7], tonumber(ARGV[8]), ARGV[9]

-- The `places` of jobs of which some have a unique key and the others nothing but their calls; nil for any others.
local locks = places and #places == 2 * #sizes and places or nil

-- The keys of the records of plain jobs and these, in turn; nil if an envelope needs a key of its own.
local function plain_records()
  local keys, records, tail = Keys.job(q, prefix), {}, after_fresh(q, watched)
  local start, last, head = 1, nil, nil
  for i, size in ipairs(sizes) do
    if size > BODY_LIMIT then return nil end
    if size ~= last then last, head = size, before_fresh(size, watched) end
    records[2 * i - 1] = keys .. string.sub(ends, (i - 1) * width + 1, i * width)
    records[2 * i] = head .. string.sub(envelopes, start, start + size - 1) .. tail
    start = start + size
  end
  return records
end

-- Adds all jobs if none of their ids exists; returns whether it has.
local function add_all(records)
  local entries = Lanes.push_alike(q, Keys.NORMAL, prefix, width, ends)
  if redis.call('MSETNX', unpack(records)) == 1 then return true end
  redis.call('XDEL', Keys.lane(q, Keys.NORMAL), unpack(entries))
  return false
end

-- Most sends are like this: plain jobs, or unique ones, whose ids cannot be used twice.
local usual = not again and not nonces and (locks or not places) and width > 0 and #sizes <= CHUNK and not most
local marks = ARGV[10]

-- The id and the envelope of each job.
local function cut_all()
  local ids, texts, start = width == 0 and cmsgpack.unpack(ends) or {}, {}, 1
  for i, size in ipairs(sizes) do
    ids[i] = ids[i] or prefix .. string.sub(ends, (i - 1) * width + 1, i * width)
    texts[i] = string.sub(envelopes, start, start + size - 1)
    start = start + size
  end
  return ids, texts
end

-- Notes that all jobs were added; `worker` is the one that has a lone job already.
local function note_all(worker)
  if marks == '' then return {} end
  if string.find(marks, 's', 1, true) then History.count_sent(q, #sizes) end
  if Events.are_recorded(q, marks) then
    Events.add_calls(q, 'q', '', cut_all())
    if worker then Events.add_calls(q, 'b', worker, cut_all()) end
  end
  return {}
end

if usual and not locks then
  local records = plain_records()
  if records and add_all(records) then return note_all() end
end

-- Takes the unique keys of all jobs if nobody has one of them; returns their names, else nil. Who has a key may
-- have vanished, which the general way finds out.
local function take_keys()
  local taken, names = {}, {}
  for i, size in ipairs(sizes) do
    if size > BODY_LIMIT then return nil end
    if locks[2 * i - 1] ~= '' then
      local name, at = Keys.unique(q, locks[2 * i - 1]), #taken
      names[#names + 1] = name
      taken[at + 1], taken[at + 2] = name, prefix .. string.sub(ends, (i - 1) * width + 1, i * width)
    end
  end
  return redis.call('MSETNX', unpack(taken)) == 1 and names or nil
end

-- Gives the jobs that have a unique key the records of such jobs.
local function add_locks(records)
  local tail, start, last, head, how, behind = UniqueText.after_fresh(q, watched), 1, nil, nil, nil, nil
  for i, size in ipairs(sizes) do
    local key = locks[2 * i - 1]
    if key ~= '' then
      if size ~= last then last, head = size, UniqueText.before_fresh(size) end
      if locks[2 * i] ~= how then
        how = locks[2 * i]
        behind = UniqueText.after_key(string.match(how, '^(%a+) (%a+)$'))
      end
      records[2 * i] = head .. string.sub(envelopes, start, start + size - 1) .. tail .. packed(key) .. behind
    end
    start = start + size
  end
end

-- Dispatches a lone job, which holds its unique key, to a worker that waits; returns that worker, nil for none.
local function dispatch_lone(id, text, name)
  local there = redis.call('EXISTS', q.base .. Keys.IDLE) == 1 and redis.call('EXISTS', Keys.job(q, id)) == 0
  local function running(run) return (select(3, UniqueText.begin_first(text, run))) end
  local worker = there and Dispatch.one(q, id, envelopes, '+', running) or nil
  if worker and string.sub(locks[2], 1, 7) == 'started' then redis.call('DEL', name) end
  return worker
end

-- The same as `add_all` where some jobs have a unique key; also returns the worker that has a lone job already.
local function add_unique()
  local names = take_keys()
  if not names then return false end
  local records = plain_records()
  add_locks(records)
  local worker = #sizes == 1 and dispatch_lone(prefix .. ends, records[2], names[1])
  if worker or add_all(records) then return true, worker end
  redis.call('DEL', unpack(names))
  return false
end

if usual and locks then
  local is_added, worker = add_unique()
  if is_added then return note_all(worker) end
end

if locks then
  places = {}
  local how, till, conflict = nil, nil, nil
  for i = 1, #sizes do
    local key = locks[2 * i - 1]
    if locks[2 * i] ~= how then
      how = locks[2 * i]
      till, conflict = string.match(how, '^(%a*) ?(%a*)$')
    end
    places[3 * i - 2], places[3 * i - 1] = '', ''
    places[3 * i] = key ~= '' and {unique = {key, till, conflict, 0, 0, 0, 0}}
  end
end

-- If the queue has a bound, how many jobs it has, and for how many more there is room. How many were refused.
local size, refused = most and Size.of(q), 0
local room = most and Rooms.left(q, place, most - size)
local present = {}
local ids, texts = cut_all()
local batch = Adding.begin(ARGV[4], tombstone, tonumber(ttl))
local keys = {}
for i, id in ipairs(ids) do keys[i] = Keys.job(q, id) end
-- Usually none of the ids exists, which one command shows.
local all_new = not again and (#keys == 0 or redis.call('EXISTS', unpack(keys)) == 0)

-- Whether the earlier call has added this job; or the job whose call it has replaced. Tombstones are read only
-- here, because otherwise a new send may use an id again.
local function is_done(id, nonce)
  if batch.added[id] then return batch.added[id].nonce == nonce end
  local tombstone = redis.call('GET', Keys.tombstone(q, nonce ~= '' and nonce or id))
  if tombstone then return tombstone == '' or tombstone end
  local job = Record.load(q, id)
  return job and (job[Field.NONCE] or '') == nonce
end

local function prepare(position, envelope, nonce, is_there)
  local job = {envelope = envelope, nonce = nonce}
  if places then
    job.lane, job.due, job.extra = places[3 * position - 2], places[3 * position - 1], places[3 * position]
  end
  local instead = Adding.prepare(q, batch, ids[position], job, is_there)
  if instead then
    present[#present + 1] = {position, instead}
  elseif room then
    room, size = room - 1, size + 1
  end
end

-- Whether the queue has no room for a job. One with a unique key that another one holds may need none.
local function is_refused(position)
  if not room or room > 0 then return false end
  local extra = places and places[3 * position]
  return not (extra and extra.unique and Unique.adds_none(q, ids[position], extra.unique, batch.added))
end

for position, id in ipairs(ids) do
  local nonce = nonces and nonces[position] or ''
  local done = again and is_done(id, nonce)
  -- If this call adds the job whose call it has replaced, the earlier call has failed before it was added.
  if type(done) == 'string' and not batch.added[done] then
    present[#present + 1] = {position, done}
  elseif done == true then
    local extra = places and places[3 * position]
    if extra and extra.unique then Unique.count_from_now(q, id, extra.unique) end
  else
    local is_there = batch.added[id] or not all_new and redis.call('EXISTS', keys[position]) == 1
    if is_there and (batch.added[id] or not Dead.is_free(q, id)) then
      present[#present + 1] = position
    elseif is_refused(position) then
      present[#present + 1], refused = {position, size}, refused + 1
    else
      prepare(position, texts[position], nonce, is_there)
    end
  end
end
if place then Rooms.stand(q, place, refused + tonumber(behind), most) end
Adding.write(q, batch)
if batch.ending[1] then
  History.begin(q, about, '', nil, nil, Adding.reasons(batch))
  History.around(q, function() Adding.end_all(q, batch) end)
  Results.publish(q)
end
Adding.count_windows(q, batch)
local new = batch.jobs
if string.find(marks, 's', 1, true) then History.count_sent(q, #new) end
if Events.are_recorded(q, marks) then
  local new_ids, calls = {}, {}
  for i, job in ipairs(new) do new_ids[i], calls[i] = job.id, job.envelope end
  Events.add_calls(q, 'q', '', new_ids, calls)
end
if most and refused == 0 then Rooms.tell(q) end
return present
