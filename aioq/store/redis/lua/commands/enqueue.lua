-- Adds jobs whose id the queue does not have yet.
--
-- The records are written last, and all at once. If the script fails before, there are only entries or due times
-- without a record, which are ignored: no job has a record without being queued.
--
-- Its arguments are few, and long; docs/design.md, "An enqueue has few arguments, and long ones".
--
-- NEEDS: keys, msgpack, record_text_write, record, lanes, hooks, dead, history, events
-- USES: reads counters, job, listening, scheduled, standing, tombstone; writes body, counters, dead, events, idle,
--   job, lanes, outbox, scheduled, standing, stats, timers, wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 'again' if an earlier call may have added these jobs, else '';
--   2 a MessagePack array with the nonce of each send, '' if no id can be used twice;
--   3 a MessagePack array with three items for each job: lane ('' for normal), due ('' for at once, '+N' for N ms
--   from now, or the time in ms since the epoch), EXTRA (false for none); or '' if all jobs are plain: normal and
--   at once; 4 the channel of a process that will wait for these jobs, '' for none;
--   5 the envelopes, joined; 6 the length of each in bytes, as a MessagePack array;
--   7 the common prefix of all ids; 8 how many bytes each id has after it; 9 these rests, joined. If the ids do
--   not have equal lengths, these three are '', zero and the ids as a MessagePack array;
--   10 the marks of lib/events.lua, '' for none
-- REPLY: the positions (from 1) of the jobs whose ids existed already, except those that the earlier call has
-- added
local again = ARGV[1] ~= ''
local nonces = ARGV[2] ~= '' and cmsgpack.unpack(ARGV[2]) or nil
local places = ARGV[3] ~= '' and cmsgpack.unpack(ARGV[3]) or nil
local watched = ARGV[4] ~= '' and packed(ARGV[4]) or nil
-- Two long arguments instead of two for each job: cutting them here takes less time than reading many arguments.
local envelopes, sizes = ARGV[5], cmsgpack.unpack(ARGV[6])
local prefix, width, ends = ARGV[7], tonumber(ARGV[8]), ARGV[9]

-- Adds all jobs if none of their ids exists; returns whether it has.
local function add_all()
  local keys, records, tail = Keys.job(q, prefix), {}, after_fresh(q, watched)
  local start, last, head = 1, nil, nil
  for i, size in ipairs(sizes) do
    if size > BODY_LIMIT then return false end
    if size ~= last then last, head = size, before_fresh(size, watched) end
    records[2 * i - 1] = keys .. string.sub(ends, (i - 1) * width + 1, i * width)
    records[2 * i] = head .. string.sub(envelopes, start, start + size - 1) .. tail
    start = start + size
  end
  local entries = Lanes.push_alike(q, Keys.NORMAL, prefix, width, ends)
  if redis.call('MSETNX', unpack(records)) == 1 then return true end
  redis.call('XDEL', Keys.lane(q, Keys.NORMAL), unpack(entries))
  return false
end

-- Most sends are like this: plain jobs, whose ids cannot be used twice.
local usual = not again and not nonces and not places and width > 0 and #sizes <= CHUNK
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

if usual and add_all() then
  if marks == '' then return {} end
  if string.find(marks, 's', 1, true) then History.count_sent(q, #sizes) end
  if Events.are_recorded(q, marks) then Events.add_calls(q, 'q', '', cut_all()) end
  return {}
end

local present, added, new, records, queued = {}, {}, {}, {}, {}
local ids, texts = cut_all()
local keys = {}
for i, id in ipairs(ids) do keys[i] = Keys.job(q, id) end
-- Usually none of the ids exists, which one command shows.
local all_new = not again and (#keys == 0 or redis.call('EXISTS', unpack(keys)) == 0)

-- Whether the earlier call has added this job. Tombstones are read only here, because otherwise a new send may use
-- an id again.
local function is_done(id, nonce)
  if added[id] then return added[id] == nonce end
  if redis.call('EXISTS', Keys.tombstone(q, nonce ~= '' and nonce or id)) == 1 then return true end
  local job = Record.load(q, id)
  return job and (job[Field.NONCE] or '') == nonce
end

-- The time at which a job is to run, if that is later than now.
local function later(due)
  if due == '' then return nil end
  local at = tonumber(due)
  if string.sub(due, 1, 1) == '+' then at = q.now + at end
  return at > q.now and at
end

-- Queues a job. Consecutive jobs for the same lane share entries.
local waiting_for = Keys.NORMAL
local function queue(lane, id)
  if lane ~= waiting_for then
    Lanes.push_all(q, waiting_for, queued, 1)
    queued = {}
  end
  waiting_for = lane
  queued[#queued + 1] = id
end

-- A job's record. A large envelope is written to its own key, so this is called after the job was queued.
local function record(id, envelope, lane, nonce, due, extra)
  local is_plain = not (lane or due or extra) and nonce == ''
  if is_plain and #envelope <= BODY_LIMIT then return fresh(q, envelope, watched) end
  local job = Record.new(q, id, envelope, lane, nonce ~= '' and nonce, due and 'scheduled')
  if extra then
    Record.widen(job, Field.EXTRA)
    job[Field.EXTRA] = extra
    Hooks.run(q, 'enter', id, job, due or q.now)
  end
  if watched then
    Record.widen(job, Field.WAITERS)
    job[Field.WAITERS] = ARGV[4]
  end
  return cmsgpack.pack(job)
end

local function add(position, envelope, nonce)
  local id, lane, due, extra = ids[position], nil, nil, nil
  if places then
    lane, due, extra = places[3 * position - 2], later(places[3 * position - 1]), places[3 * position]
    if lane == '' then lane = nil end
  end
  if due then Lanes.schedule(q, id, due, lane) else queue(lane or Keys.NORMAL, id) end
  added[id] = nonce
  new[#new + 1] = {position, envelope, lane, nonce, due, extra}
end

for position, id in ipairs(ids) do
  local nonce = nonces and nonces[position] or ''
  if again and is_done(id, nonce) then
    -- Nothing to do.
  elseif added[id] or not all_new and redis.call('EXISTS', keys[position]) == 1 and not Dead.free_id(q, id) then
    present[#present + 1] = position
  else
    add(position, texts[position], nonce)
  end
end
Lanes.push_all(q, waiting_for, queued, 1)
for i, job in ipairs(new) do
  local position = job[1]
  records[2 * i - 1], records[2 * i] = keys[position], record(ids[position], unpack(job, 2, 6))
end
Record.set_all(records)
if string.find(marks, 's', 1, true) then History.count_sent(q, #new) end
if Events.are_recorded(q, marks) then
  local new_ids, calls = {}, {}
  for i, job in ipairs(new) do new_ids[i], calls[i] = ids[job[1]], job[2] end
  Events.add_calls(q, 'q', '', new_ids, calls)
end
return present
