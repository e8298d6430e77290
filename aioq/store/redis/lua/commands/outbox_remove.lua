-- Removes entries from the outbox that the other queue has applied, and does what was left for that time: the
-- record of a job that has arrived there only leads there from now on, and that of a job whose end was applied
-- there may expire.
--
-- NEEDS: keys, record, results, history, hooks, finish, outbox, moves
-- USES: reads batch, body, bucket, flow, group, halted, holders, job, lanes, limits, outbox, relays, schedule,
--   scheduled, standing, timers, tokens, unique; writes batch, blocked, body, bucket, counters, flowwork, group,
--   history, holders, idle, job, lanes, leftovers, outbox, relays, schedule, scheduled, standing, stats, tasks,
--   timers, tokens, tombstone, unique, waiting, wakeable; publishes dispatched, waiter
-- KEYS: 1 base key
-- ARGV: 1 the other queue, 2 for how many ms after its send a job must be found, 3 the last entry that was applied
--   there, 4 the name of the reading, 5 `about` of lib/history.lua, then two per entry: its id, and what
--   outbox_deliver.lua has said of it, `refused` being followed by what is the outcome of a flow's job then: for
--   how many ms it is kept, a blank, and the outcome
-- REPLY: 1 if there are more entries, else 0; then the jobs that are here again, because they were refused there
local target, limits, last, reply = ARGV[1], {tombstone = tonumber(ARGV[2])}, ARGV[3], {0}
local key = Keys.outbox(q, target)

-- A job is here again. If it was cancelled meanwhile, it ends, and comes to no lane: `Finish.finish` must not take
-- it for a queued one, which would leave an entry.
local function take_back(id, job, verdict)
  local move, flow = Record.move_of(job), job[Field.EXTRA].flow
  Moves.forget(job)
  if job[Field.CANCEL] then
    Finish.finish(q, limits, id, job, 'cancelled', job[Field.CANCEL], job[Field.CANCEL_TTL])
    return
  end
  local ttl, outcome = string.match(verdict, '^refused (%d+) (.*)$')
  if ttl and flow and flow[3] == 1 then -- a node is not run by another queue than its own
    Finish.finish(q, limits, id, job, 'failed', outcome, tonumber(ttl))
    return
  end
  Moves.queue(q, id, job, move[3], move[4])
  Record.save(q, id, job)
  reply[#reply + 1] = id
end

-- By kind, what is left to do.
local kinds = {}
function kinds.job(entry, id, job, verdict)
  if job[Field.STATE] ~= 'moving' or Record.move_of(job)[2] ~= entry then return end
  if string.sub(verdict, 1, 7) == 'refused' then return take_back(id, job, verdict) end
  if job[Field.CANCEL] then
    Outbox.add(q, target, 'cancel', id, cmsgpack.pack({job[Field.CANCEL], job[Field.CANCEL_TTL]}))
  end
  Hooks.run(q, 'left', id, job)
  Record.save(q, id, Moves.forward(job))
  if job[Field.JOB] == true then redis.call('DEL', Keys.body(q, id)) end
end
function kinds.ended(_, id, job)
  local origins = Record.origins_of(job)
  if not origins or not Record.has_ended(job) then return end
  local left = {origins[1]}
  for i = 2, #origins do
    if origins[i] ~= target then left[#left + 1] = origins[i] end
  end
  job[Field.EXTRA].origins = left[2] and left or nil
  if not next(job[Field.EXTRA]) then job[Field.EXTRA] = false end
  Finish.keep(q, limits, id, job, origins[1] - q.now)
  local has_body = job[Field.JOB] == true or job[Field.OUTCOME] == true
  if has_body then Finish.expire_body(q, id, job, origins[1] - q.now) end
end

-- Gives an entry the next id above the last one that was applied; see lib/outbox.lua.
local function renumber(kind, id, data, job)
  local time, count = string.match(last, '^(%d+)-(%d+)$')
  last = string.format('%s-%d', time, count + 1)
  redis.call('XADD', key, last, 'kind', kind, 'id', id, 'data', data)
  if kind == 'job' and job and job[Field.STATE] == 'moving' then
    job[Field.EXTRA].move[2] = last
    Record.save(q, id, job)
  end
end

-- Another worker that has read the entries meanwhile may have delivered them: then they are not stale.
local read_since = redis.call('HGET', q.base .. Keys.RELAYS, target) ~= ARGV[4]
History.begin(q, ARGV[5], '')
local function remove_all()
  for i = 6, #ARGV, 2 do
    local entry = redis.call('XRANGE', key, ARGV[i], ARGV[i])[1]
    if entry then
      local kind, id, data = Outbox.fields_of(entry)
      local job = Record.load(q, id)
      if ARGV[i + 1] ~= 'stale' then
        if kinds[kind] and job then kinds[kind](entry[1], id, job, ARGV[i + 1]) end
        redis.call('XDEL', key, entry[1])
      elseif not read_since then
        renumber(kind, id, data, job)
        redis.call('XDEL', key, entry[1])
      end
    end
  end
end
History.around(q, remove_all)
if not Outbox.clear(q, target) then reply[1] = 1 end
Results.publish(q)
return reply
