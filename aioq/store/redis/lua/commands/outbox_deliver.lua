-- Applies entries of another queue's outbox in this queue: each once, and in their order.
--
-- NEEDS: call, keys, record_text_write, record, results, timers, history, finish, dead, outbox, cancellation
-- NEEDS: moves, unique
-- USES: reads batch, body, bucket, flow, group, halted, holders, inbox, job, lanes, limits, schedule, scheduled,
--   standing, timers, tokens, tombstone, unique; writes batch, blocked, body, bucket, cancel, counters, dead,
--   flowwork, group, history, holders, idle, inbox, job, lanes, leftovers, outbox, schedule, scheduled, standing,
--   stats, tasks, timers, tokens, tombstone, unique, waiting, wakeable; publishes dispatched, waiter, worker
-- KEYS: 1 base key
-- ARGV: 1 the other queue, 2 for how many ms after its send a job must be found, 3 for how many ms a cancellation
--   of a job that is not here is remembered, 4 '1' if none of these entries was delivered before, else '0', 5
--   `about` of lib/history.lua, then four per entry, as outbox_read.lua returns them
-- REPLY: {the last entry that was applied before this call ('' for none), the queues for which this call has put
--   something into the outbox of this queue}; and per entry `applied`, `refused` (there is another job with this
--   id or unique key, whose id follows after a blank, or a key of its lane holds another type), or `stale`
--   (it was never delivered, but its id is too low)
local source, limits, kept, is_fresh = ARGV[1], {tombstone = tonumber(ARGV[2])}, tonumber(ARGV[3]), ARGV[4] == '1'
-- The note of the last entry expires this many ms after the last delivery: long after every delivery that a worker
-- may still repeat.
local INBOX_TTL = 86400000

-- Whether an entry's id is above another's. They are two numbers, the first of which is a time.
local function is_above(entry, other)
  local time, count = string.match(entry, '^(%d+)-(%d+)$')
  local time_then, count_then = string.match(other, '^(%d+)-(%d+)$')
  if not time_then or time ~= time_then then return not time_then or tonumber(time) > tonumber(time_then) end
  return tonumber(count) > tonumber(count_then)
end

local function is_same(job, other)
  return job[Field.SENT] == other[Field.SENT] and (job[Field.NONCE] or '') == (other[Field.NONCE] or '')
end

local touched, targets = {}, {}
local function note(origins)
  for i = 2, #(origins or {}) do
    if not touched[origins[i]] then
      touched[origins[i]] = true
      targets[#targets + 1] = origins[i]
    end
  end
end

-- The outcome and the ttl with which a job is to be cancelled on its arrival; nil if it is not. `there` is the
-- record of its last stay here: it may be cancelled by that as long as its departure is in the outbox.
local function called_off(id, job, there)
  if job[Field.CANCEL] then return job[Field.CANCEL], job[Field.CANCEL_TTL] end
  if there and there[Field.CANCEL] then return there[Field.CANCEL], there[Field.CANCEL_TTL] end
  local found = redis.pcall('GET', Keys.tombstone(q, 'cancel:' .. id))
  if is_unreadable(found) or not found then return nil end
  redis.call('DEL', Keys.tombstone(q, 'cancel:' .. id))
  return unpack(cmsgpack.unpack(found))
end

-- The queues that are notified of the end of a job which arrives: the one that it comes from, and those that are
-- named by the record that was here.
local function origins_with(there)
  local origins = {0, source}
  for i = 2, #(there and Record.origins_of(there) or {}) do
    if Record.origins_of(there)[i] ~= source then origins[#origins + 1] = Record.origins_of(there)[i] end
  end
  return origins
end

-- By kind, what an entry does; each returns false if it is refused, and which job is in its way.
local kinds = {}
function kinds.job(id, said)
  local job, there = Record.unpacked(said), Record.load(q, id)
  if not there and redis.call('EXISTS', Keys.job(q, id)) == 1 then return false, id end
  if there and is_same(job, there) then
    if not Record.is_elsewhere(there) then return true end -- the call is repeated
  elseif there then
    if not Dead.is_free(q, id) then return false, id end
  end
  -- It stays where it is as long as another job holds its unique key here.
  local lock = job[Field.EXTRA].unique
  local owner = lock and lock[2] ~= 'within' and lock[3] ~= 'debounce' and Unique.owner(q, id, lock)
  if owner then return false, owner end
  if there and not is_same(job, there) then
    Dead.free_id(q, id)
    there = nil
  end
  local move = Record.move_of(job)
  job[Field.EXTRA].move, job[Field.EXTRA].origins, job[Field.STATE] = nil, origins_with(there), false
  job[Field.WAITERS] = there and there[Field.WAITERS] or false
  if job[Field.EXTRA].flow then job[Field.EXTRA].flow[3] = nil end
  Moves.queue(q, id, job, move[3], move[4])
  if job[Field.JOB] and #job[Field.JOB] > BODY_LIMIT then
    redis.call('SET', Keys.body(q, id), job[Field.JOB])
    job[Field.JOB] = true
  end
  Record.save(q, id, job)
  local outcome, ttl = called_off(id, job, there)
  if outcome then
    note(Record.origins_of(job))
    Cancel.one(q, limits, id, job, outcome, ttl)
  end
  return true
end
function kinds.ended(id, said)
  local job, outcome = Record.load(q, id), cmsgpack.unpack(said)
  if not job or not Record.is_elsewhere(job) or Record.move_of(job)[1] ~= source then return true end
  local has_body = job[Field.JOB] == true
  job[Field.JOB] = false
  note(Record.origins_of(job))
  is_unreadable(redis.pcall('ZREM', q.base .. Keys.TIMERS, Timer.LOOK .. ' ' .. id))
  -- It is in the history of the queue in which it has ended.
  Finish.finish(q, limits, id, job, outcome[1], outcome[2] or '', outcome[3], {is_unnoted = true})
  -- At once: if the next command fails, the repeated call finds no record that names who waits.
  Results.publish(q)
  if has_body and job[Field.OUTCOME] ~= true then redis.call('DEL', Keys.body(q, id)) end
  return true
end
function kinds.cancel(id, said)
  local job, how = Record.load(q, id), cmsgpack.unpack(said)
  if job and job[Field.STATE] == 'moved' then
    note({0, Record.move_of(job)[1]})
    Outbox.add(q, Record.move_of(job)[1], 'cancel', id, said)
  elseif job then
    note(Record.origins_of(job))
    Cancel.one(q, limits, id, job, how[1], how[2])
  else
    redis.call('SET', Keys.tombstone(q, 'cancel:' .. id), said, 'PX', kept)
  end
  return true
end

-- Applies one entry; returns whether it was accepted, and if not, which job is in its way. A job that cannot be
-- put into its lane, because a key holds another type, must not hold up the others.
local function apply(kind, id, said)
  if kind ~= 'job' then return kinds[kind](id, said) end
  local done, accepted, owner = pcall(kinds.job, id, said)
  if not done then pass_over(accepted) end
  return done and accepted, owner
end

local last = redis.call('HGET', q.base .. Keys.INBOX, source) or ''
local reply = {{last, targets}}
History.begin(q, ARGV[5], '')
local function apply_all()
  for i = 6, #ARGV, 4 do
    local entry, verdict = ARGV[i], 'applied'
    if is_above(entry, last) then
      local accepted, owner = apply(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
      if not accepted then verdict = owner and 'refused ' .. owner or 'refused' end
      redis.call('HSET', q.base .. Keys.INBOX, source, entry)
      last = entry
    elseif is_fresh then
      verdict = 'stale'
    end
    reply[#reply + 1] = verdict
  end
end
History.around(q, apply_all)
redis.call('PEXPIRE', q.base .. Keys.INBOX, INBOX_TTL)
Results.publish(q)
return reply
