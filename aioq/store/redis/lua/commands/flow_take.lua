-- Reads what is to be done in flows, and leaves them to the caller for some time. What is left of a flow that has
-- not begun, or of a step, is removed or done here.
--
-- NEEDS: call, keys, record_text_read, record, timers, flows
-- USES: reads dead, flow, flowparts, flows, flowstates, flowwork, job, timers; writes body, flow, flowparts,
--   flows, flowstates, flowwork, job, scheduled, timers, waiting
-- KEYS: 1 base key
-- ARGV: 1 the most flows, 2 for how many ms others leave them to the caller (zero: not at all), 3 the most items
--   of one flow, 4 with how many bytes of outcomes it may come, 5 'read' if nothing is taken, and also what others
--   hold is read, else '', 6 for how many ms the parts of a flow are kept that has not begun, 7 for how many ms
--   dead jobs are kept, then one per flow: its id; without any those in which a step is due
-- REPLY: the time in ms; per flow the flow, its revision, head, memo, number of nodes and of parts, states, 1 if
--   it is over, else 0; the state of its own record ('' for none) and, if it has ended, its outcome ('' if that is
--   large); its first items; how many there are after these; and of each item that names a node: the index, the
--   job, its state ('' for none), and its outcome, '' if it has not ended or the outcome does not fit
local most, hold, most_items, room = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local is_reading, reply = ARGV[5] == 'read', {}
-- The most items of all flows of a call, so that it takes the server some milliseconds; the first flow is taken in
-- any case. And how many timers are looked at to find those that are due.
local MOST_ITEMS, MOST_TIMERS = 1000, 1000

-- The state of a job: in another queue, or by a newer version, it waits.
local function state_of(id, job, text)
  if job then return Record.is_elsewhere(job) and 'waiting' or job[Field.STATE] or 'queued' end
  return (text or redis.call('EXISTS', Keys.job(q, id)) == 1) and 'waiting' or ''
end
local function outcome_of(job)
  local outcome = job and Record.has_ended(job) and job[Field.OUTCOME]
  return outcome and outcome ~= true and outcome or ''
end

-- What the records of jobs say that items name.
local function ended_of(items)
  local ids, places, found, bytes = {}, {}, {}, 0
  for _, item in ipairs(items) do
    local index, id = string.match(item, '^(%d+) (.+)$')
    if index then ids[#ids + 1], places[#places + 1] = id, tonumber(index) end
  end
  local texts = ids[1] and texts_of(q, ids) or {}
  for i, id in ipairs(ids) do
    local job, n = Record.unpacked(texts[id]), #found
    local outcome = outcome_of(job)
    bytes = bytes + #outcome
    if bytes > room then outcome = '' end
    found[n + 1], found[n + 2], found[n + 3], found[n + 4] = places[i], id, state_of(id, job, texts[id]), outcome
  end
  return found
end

local function has_timer(flow) return redis.call('ZSCORE', q.base .. Keys.TIMERS, Timer.FLOW .. ' ' .. flow) end

-- Removes what a script has left that was to begin a flow. The parts of its definition expire.
local function clear(flow)
  if not has_timer(flow) then return end
  local job = Record.load(q, flow)
  local place = job and job[Field.EXTRA] and job[Field.EXTRA].flow
  if place and place[2] == Flows.OWN_RECORD and job[Field.STATE] == 'waiting' then
    redis.call('DEL', Keys.job(q, flow), Keys.body(q, flow))
  end
  is_unreadable(redis.pcall('SREM', q.base .. Keys.WAITING, flow))
  redis.call('ZREM', q.base .. Keys.FLOWS, flow)
  redis.call('DEL', Keys.flow_work(q, flow), Keys.flow_states(q, flow))
  redis.call('PEXPIRE', Keys.flow_parts(q, flow), ARGV[6])
  Flows.stop(q, flow)
end

local names = {'rev', 'head', 'memo', 'nodes', 'over', 'held', 'delta', 'ttl'}
local looked_at = 0
local function take(flow)
  local values, facts = redis.call('HMGET', Keys.flow(q, flow), unpack(names)), {}
  for i, name in ipairs(names) do facts[name] = values[i] end
  if not facts.rev then
    if not is_reading then clear(flow) end
    return
  end
  local items = redis.call('LRANGE', Keys.flow_work(q, flow), 0, most_items - 1)
  if not is_reading then
    if facts.over == '1' and (facts.delta or not items[1]) then
      Flows.complete(q, flow, facts.delta, true)
      if has_timer(flow) then Flows.close(q, flow, tonumber(facts.ttl), tonumber(ARGV[7])) end
      return
    end
    if tonumber(facts.held) > q.now then return end
  end
  Flows.complete(q, flow, facts.delta, facts.over == '1')
  if not is_reading and hold > 0 then
    Timer.set(q, Timer.FLOW, flow, q.now + hold)
    redis.call('HSET', Keys.flow(q, flow), 'held', q.now + hold)
  end
  looked_at = looked_at + #items
  local own = Record.load(q, flow)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = flow, tonumber(facts.rev), facts.head
  reply[n + 4], reply[n + 5] = facts.memo, tonumber(facts.nodes)
  reply[n + 6] = redis.call('HLEN', Keys.flow_parts(q, flow))
  reply[n + 7] = redis.call('GET', Keys.flow_states(q, flow)) or ''
  reply[n + 8], reply[n + 9], reply[n + 10] = tonumber(facts.over), state_of(flow, own), outcome_of(own)
  reply[n + 11], reply[n + 12] = items, redis.call('LLEN', Keys.flow_work(q, flow)) - #items
  reply[n + 13] = is_reading and {} or ended_of(items)
end

local flows = {}
for i = 8, #ARGV do flows[#flows + 1] = ARGV[i] end
if not flows[1] then
  local timers = redis.pcall('ZRANGEBYSCORE', q.base .. Keys.TIMERS, '-inf', q.now, 'LIMIT', 0, MOST_TIMERS)
  for _, timer in ipairs(is_unreadable(timers) and {} or timers) do
    local kind, id = string.match(timer, '^(%S+) (.*)$')
    if kind == Timer.FLOW then flows[#flows + 1] = id end
  end
end
reply[1] = q.now
for i, flow in ipairs(flows) do
  if looked_at >= MOST_ITEMS or i > 10 * most or #reply > 13 * most then break end
  take(flow)
end
return reply
