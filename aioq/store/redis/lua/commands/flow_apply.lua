-- Applies steps in flows, each by one HSET of its revision: what a step needs is written before, so that it may be
-- repeated, by the same caller or by another one.
--
-- NEEDS: keys, record_text_write, record, timers, results, history, events, finish, cancellation, adding, outbox
-- NEEDS: moves, flows
-- USES: reads batch, body, bucket, counters, dead, flow, flows, flowstates, flowwork, group, halted, holders, job,
--   lanes, limits, listening, schedule, scheduled, standing, timers, tokens, unique; writes batch, blocked, body,
--   bucket, cancel, counters, dead, events, flow, flowparts, flows, flowstates, flowwork, group, history, holders,
--   idle, job, lanes, leftovers, limits, outbox, schedule, scheduled, standing, stats, tasks, timers, tokens,
--   tombstone, unique, waiting, wakeable; publishes dispatched, waiter, worker
-- KEYS: 1 base key
-- ARGV: 1 for how many ms after its send a job must be found, 2 `about` of lib/history.lua, 3 for how many ms the
--   outcome of a job is kept that no worker settles, 4 for how many ms dead jobs are kept, 5 the marks of
--   lib/events.lua, then seven per step:
--     - a MessagePack map: flow, rev, taken, nodes, look (false for none), ttl, over, reopen, state ('' unless the
--       flow ends), further, offsets and sizes (of states), numbers and part_sizes; jobs: per job its id, its
--       queue ('' for this one), lane, due (as enqueue.lua), EXTRA, and the size of its envelope; cancel, forget,
--       keep (job ids); and the errors in words of both outcomes, cancel_text and end_text
--     - the memo; the states, the parts, and the envelopes, each joined
--     - the outcome of those that are cancelled, and that of the flow
-- REPLY: per step 1, 2 if there is more work in its flow, or 0 if it was not applied
local limits, about, result_ttl = {tombstone = tonumber(ARGV[1])}, ARGV[2], tonumber(ARGV[3])
local dead_ttl, marks = tonumber(ARGV[4]), ARGV[5]

local steps, texts = {}, {}
for i = 6, #ARGV, 7 do
  local step = cmsgpack.unpack(ARGV[i])
  step.at = i
  steps[#steps + 1], texts[ARGV[i + 5]], texts[ARGV[i + 6]] = step, step.cancel_text, step.end_text
end

-- The texts that were joined.
local function cut(joined, sizes)
  local found, start = {}, 1
  for i, size in ipairs(sizes) do
    found[i] = string.sub(joined, start, start + size - 1)
    start = start + size
  end
  return found
end

-- A job that is not sent, because another one is there in its place, fails.
local function fail(id, extra, owner)
  local job = {false, q.now, false, false, 'waiting'}
  Record.widen(job, Field.EXTRA)
  job[Field.EXTRA] = {flow = extra.flow, tags = extra.tags}
  local text = 'it was not sent, because job ' .. owner .. ' holds its unique key'
  -- The same as `held_outcome` in aioq/store/flows.py.
  local outcome = cmsgpack.pack({2, 1, '', {'aioq.DuplicateJobError', text, ''}})
  Finish.finish(q, limits, id, job, 'failed', outcome, result_ttl)
end

-- Sends a job to another queue.
local function depart(id, node, envelope)
  local due = Adding.later(q, node[4])
  local extra = node[5]
  extra.flow[3] = 1
  Moves.add(q, id, node[2], due, function()
    local job = Record.new(q, id, envelope, node[3] ~= '' and node[3], nil, 'moving')
    Record.widen(job, Field.EXTRA)
    job[Field.EXTRA] = extra
    return job
  end)
end

local ids, calls = {}, {}
-- Creates the jobs of nodes, those that are not there yet.
local function release(step)
  local envelopes, sizes, keys = nil, {}, {}
  for i, node in ipairs(step.jobs) do sizes[i], keys[i] = node[6], Keys.job(q, node[1]) end
  if not keys[1] then return end
  envelopes = cut(ARGV[step.at + 4], sizes)
  local is_any_there = redis.call('EXISTS', unpack(keys)) > 0
  local batch = Adding.begin('', limits.tombstone, result_ttl)
  for i, node in ipairs(step.jobs) do
    local id, extra, instead = node[1], node[5], nil
    local is_new = not is_any_there or redis.call('EXISTS', keys[i]) == 0
    if is_new and node[2] ~= '' then
      depart(id, node, envelopes[i])
    elseif is_new then
      local job = {envelope = envelopes[i], nonce = '', lane = node[3], due = node[4], extra = extra}
      instead = Adding.prepare(q, batch, id, job, false)
    end
    if instead then fail(id, extra, instead) end
    if is_new and not instead then ids[#ids + 1], calls[#calls + 1] = id, envelopes[i] end
  end
  Adding.write(q, batch)
  History.add_texts(q, Adding.reasons(batch))
  Adding.end_all(q, batch)
  Adding.count_windows(q, batch)
end

-- Cancels jobs, wherever they are.
local function cancel(step)
  local outcome = ARGV[step.at + 5]
  for id, job in pairs(Record.load_all(q, step.cancel)) do
    if job[Field.STATE] == 'moved' then
      Outbox.add(q, Record.move_of(job)[1], 'cancel', id, cmsgpack.pack({outcome, step.ttl}))
    else
      Cancel.one(q, limits, id, job, outcome, step.ttl)
    end
  end
end

-- Lets a flow that has ended go on: its own record waits again.
local function reopen(flow)
  local job = Record.load(q, flow)
  redis.call('PERSIST', Keys.flow_parts(q, flow))
  redis.call('PERSIST', Keys.flow_states(q, flow))
  redis.call('PERSIST', Keys.flow(q, flow))
  redis.call('HSET', Keys.flow(q, flow), 'over', 0)
  redis.call('ZADD', q.base .. Keys.FLOWS, 'XX', -redis.call('HGET', Keys.flow(q, flow), 'begun'), flow)
  redis.call('PERSIST', q.base .. Keys.FLOWS)
  if not job or not Record.has_ended(job) then return end
  is_unreadable(redis.pcall('SADD', q.base .. Keys.WAITING, flow))
  local new = {job[Field.JOB], job[Field.SENT], job[Field.LANE], job[Field.NONCE], 'waiting'}
  Record.widen(new, Field.EXTRA)
  new[Field.EXTRA] = job[Field.EXTRA]
  if job[Field.JOB] == true then redis.call('PERSIST', Keys.body(q, flow)) end
  Record.save(q, flow, new)
end

-- Ends the flow's own record.
local function finish(step)
  local job = Record.load(q, step.flow)
  if not job or Record.has_ended(job) then return end
  Flows.ends_by_step(q, step.flow)
  local keeps_call = {keeps_call = step.state ~= 'succeeded'}
  Finish.finish(q, limits, step.flow, job, step.state, ARGV[step.at + 6], step.ttl, keeps_call)
end

local function keep_and_forget(step)
  for _, id in ipairs(step.keep) do
    redis.call('PERSIST', Keys.job(q, id))
    redis.call('PERSIST', Keys.body(q, id))
  end
  for id, job in pairs(Record.load_all(q, step.forget)) do Flows.let_go(q, id, job, step.ttl, dead_ttl) end
end

-- Writes the step itself; nothing before it counts without it.
local function commit(step)
  local flow, key = step.flow, Keys.flow(q, step.flow)
  local delta, states = {step.nodes}, cut(ARGV[step.at + 2], step.sizes)
  for i, text in ipairs(states) do delta[2 * i], delta[2 * i + 1] = step.offsets[i], text end
  redis.call('HSET', key, 'rev', step.rev + 1, 'memo', ARGV[step.at + 1], 'nodes', step.nodes, 'held', 0,
    'over', step.over and 1 or 0, 'ttl', step.ttl, 'delta', cmsgpack.pack(delta))
  Flows.write_states(q, flow, delta)
  if step.over then return end -- `Flows.close` does the rest
  redis.call('HDEL', key, 'delta')
  if step.taken > 0 then redis.call('LTRIM', Keys.flow_work(q, flow), step.taken, -1) end
end

local function apply(step)
  local flow, key = step.flow, Keys.flow(q, step.flow)
  local facts = redis.call('HMGET', key, 'rev', 'over', 'delta')
  local is_over = facts[2] == '1'
  if tonumber(facts[1] or 0) ~= step.rev or is_over and not (step.reopen or step.over) then return 0 end
  Flows.complete(q, flow, facts[3], is_over)
  for i, part in ipairs(cut(ARGV[step.at + 3], step.part_sizes)) do
    redis.call('HSET', Keys.flow_parts(q, flow), step.numbers[i], part)
  end
  if step.reopen then reopen(flow) end
  release(step)
  cancel(step)
  if step.state ~= '' then finish(step) end
  keep_and_forget(step)
  in_chunks(step.further, function(...) redis.call('RPUSH', Keys.flow_work(q, flow), ...) end)
  commit(step)
  if step.over then
    Flows.close(q, flow, step.ttl, dead_ttl)
  elseif redis.call('LLEN', Keys.flow_work(q, flow)) > 0 then
    Timer.set(q, Timer.FLOW, flow, q.now + Flows.GRACE)
    return 2
  elseif step.look then
    Timer.set(q, Timer.FLOW, flow, step.look)
  else
    Flows.stop(q, flow)
  end
  return 1
end

local reply = {}
History.begin(q, about, '', nil, nil, texts)
History.around(q, function()
  for i, step in ipairs(steps) do reply[i] = apply(step) end
end)
Results.publish(q)
if string.find(marks, 's', 1, true) then History.count_sent(q, #ids) end
if Events.are_recorded(q, marks) then Events.add_calls(q, 'q', '', ids, calls) end
return reply
