-- Adds jobs whose id the queue does not have yet.
--
-- The records are written last and at once: where the script fails, there is a record only of what will be run, and an
-- entry or a due time without a record is passed over.
--
-- NEEDS: keys, msgpack, record_text_write, record, lanes, hooks, dead
-- USES: reads job, scheduled, tombstone; writes body, dead, idle, job, lanes, scheduled, timers
-- KEYS: 1 base key
-- ARGV: 1 'again' where an earlier call may have added these jobs, else ''; 2 '' where no id can be used twice, else
--   what tells each send from others of the same id, as a MessagePack array; 3 '' where all are for the normal lane
--   and at once and have nothing beside their calls, else a MessagePack array of three per job: lane ('' for normal), due
--   ('' for at once, '+N' for N ms from now, or the time in ms since the epoch), EXTRA (false for none); 4 the channel of a process that will wait for these jobs, '' for none;
--   5 the envelopes, one after the other; 6 how many bytes each has, as a MessagePack array;
--   7 what all ids begin with, 8 how many bytes each has after that, 9 these, one after the other; where ids are
--   not equally long, these are '', zero and the ids as a MessagePack array
-- REPLY: the positions (from 1) of the jobs that were there already, but not those that the earlier call has added
local again = ARGV[1] ~= ''
local nonces = ARGV[2] ~= '' and cmsgpack.unpack(ARGV[2]) or nil
local places = ARGV[3] ~= '' and cmsgpack.unpack(ARGV[3]) or nil
local watched = ARGV[4] ~= '' and packed(ARGV[4]) or nil
-- Two long arguments in place of two for each job: the server takes longer to read those than it takes to cut these.
local envelopes, sizes, prefix, width, ends = ARGV[5], cmsgpack.unpack(ARGV[6]), ARGV[7], tonumber(ARGV[8]), ARGV[9]

-- Adds the jobs if none of them is there, and whether it has.
local function add_all()
  local keys, records, tail = job_key(q, prefix), {}, after_fresh(q, watched)
  local start, last, head = 1, nil, nil
  for i, size in ipairs(sizes) do
    if size > BODY_LIMIT then return false end
    if size ~= last then last, head = size, before_fresh(size, watched) end
    records[2 * i - 1] = keys .. string.sub(ends, (i - 1) * width + 1, i * width)
    records[2 * i] = head .. string.sub(envelopes, start, start + size - 1) .. tail
    start = start + size
  end
  local entries = Lanes.push_alike(q, NORMAL, prefix, width, ends)
  if redis.call('MSETNX', unpack(records)) == 1 then return true end
  redis.call('XDEL', lane_key(q, NORMAL), unpack(entries))
  return false
end

-- What most sends are: nothing special, no id that can be used twice.
local usual = not again and not nonces and not places and width > 0 and #sizes <= CHUNK
if usual and add_all() then return {} end

local present, added, new, records, queued = {}, {}, {}, {}, {}
local ids, keys, texts, start = width == 0 and cmsgpack.unpack(ends) or {}, {}, {}, 1
for i, size in ipairs(sizes) do
  ids[i] = ids[i] or prefix .. string.sub(ends, (i - 1) * width + 1, i * width)
  keys[i] = job_key(q, ids[i])
  texts[i] = string.sub(envelopes, start, start + size - 1)
  start = start + size
end
-- As a rule none is there, and that is one question.
local all_new = not again and (#keys == 0 or redis.call('EXISTS', unpack(keys)) == 0)

-- Whether the earlier call has added this job. What has ended and is gone is looked for only here: a new send may use
-- an id anew.
local function is_done(id, nonce)
  if added[id] then return added[id] == nonce end
  if redis.call('EXISTS', tombstone_key(q, nonce ~= '' and nonce or id)) == 1 then return true end
  local job = load(q, id)
  return job and (job[NONCE] or '') == nonce
end

-- When it is to run, where that is later than now.
local function later(due)
  if due == '' then return nil end
  local at = tonumber(due)
  if string.sub(due, 1, 1) == '+' then at = q.now + at end
  return at > q.now and at
end

-- The jobs that are queued in the same lane one after the other share entries.
local waiting_for = NORMAL
local function queue(lane, id)
  if lane ~= waiting_for then
    Lanes.push_all(q, waiting_for, queued, 1)
    queued = {}
  end
  waiting_for = lane
  queued[#queued + 1] = id
end

-- With what a large envelope has beside it; so once what makes the job found is there.
local function record(id, envelope, lane, nonce, due, extra)
  if not (lane or due or extra) and nonce == '' and #envelope <= BODY_LIMIT then return fresh(q, envelope, watched) end
  local job = new_job(q, id, envelope, lane, nonce ~= '' and nonce, due and 'scheduled')
  if extra then
    widen(job, EXTRA)
    job[EXTRA] = extra
    run_hooks(q, 'enter', id, job, due or q.now)
  end
  if watched then
    widen(job, WAITERS)
    job[WAITERS] = ARGV[4]
  end
  return cmsgpack.pack(job)
end

local function add(position, envelope, nonce)
  local id, lane, due, extra = ids[position], nil, nil, nil
  if places then
    lane, due, extra = places[3 * position - 2], later(places[3 * position - 1]), places[3 * position]
    if lane == '' then lane = nil end
  end
  if due then Lanes.schedule(q, id, due, lane) else queue(lane or NORMAL, id) end
  added[id] = nonce
  new[#new + 1] = {position, envelope, lane, nonce, due, extra}
end

for position, id in ipairs(ids) do
  local nonce = nonces and nonces[position] or ''
  if again and is_done(id, nonce) then
    -- Nothing is left to do.
  elseif added[id] or not all_new and redis.call('EXISTS', keys[position]) == 1 and not Dead.give_up(q, id) then
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
set_all(records)
return present
