-- Flows: graphs of jobs, of which each is stored whole in one queue; `aioq/store/flows.py` says what a flow is.
-- What happens in it is decided outside: scripts only note what has ended, and write steps.
--
-- The keys of a flow, which have no expiry as long as it is open:
--
--   FLOW         a hash: `rev`, its revision; `head` and `memo`, which only those read who take steps; `nodes`,
--                how many it has; `over`, 1 once everything is done; `held`, until when somebody has taken it, in
--                ms; `begun`, when it began; `ttl`, for how long it is kept once it is over; and `delta`, what the
--                last step writes into FLOWSTATES, while it may not be there yet
--   FLOWPARTS    a hash: the parts of its definition, by their numbers. They are there before the flow begins
--   FLOWSTATES   a string: the state of each node, a byte for each
--   FLOWWORK     a list: what is to be done
--
-- FLOWS has all of them, by when they began; this number is below zero as long as a flow is open. A flow that is
-- open and has work, or is to be looked at some time, has a timer; so has one that somebody has taken. A step is
-- applied by one HSET: what it needs is written before, and what it replaces is deleted afterwards. Who takes a
-- flow does again what may be left of that.
--
-- `extra.flow` of a job is a list: 1 the flow; 2 the index of its node, or OWN_RECORD for the record of the flow
-- itself; 3 is 1 while the job is on its way to its queue for the first time. The record of a node's job stays
-- until the flow does not need it any more (`Finish.keep`), in the queue of the flow only: a queue that runs a
-- node for it does not have the flow.
--
-- NEEDS: call, keys, record, timers, lanes
local Flows = {}
-- The same as in aioq/store/extra.py; and the letter of a node that waits.
Flows.OWN_RECORD, Flows.WAITS = -1, '.'
-- For how long after a change others leave a flow to whoever has made the change, in ms: that one takes it at
-- once.
Flows.GRACE = 250
-- How many of FLOWS are looked at with each flow that comes or goes, to remove those that are deleted.
Flows.TRIED = 2

-- What is known of a flow, for a job's end: whether it is open, and until when it is held. Asked once a call.
function Flows.of(q, flow)
  q.flows = q.flows or {}
  if not q.flows[flow] then
    local found = redis.pcall('HMGET', Keys.flow(q, flow), 'over', 'held')
    if is_unreadable(found) then found = {} end
    q.flows[flow] = {is_open = found[1] == '0', held = tonumber(found[2] or 0)}
  end
  return q.flows[flow]
end

-- Whether a flow of this queue needs the record of a job.
function Flows.needs(q, job)
  local place = job[Field.EXTRA] and job[Field.EXTRA].flow
  return place and Flows.of(q, place[1]).is_open or false
end

-- Sets the timer of a flow, unless it is due earlier. `wakes`: a worker is woken if none knows of so early a time.
function Flows.remind(q, flow, at, wakes)
  local head = wakes and redis.call('ZRANGE', q.base .. Keys.SCHEDULED, 0, 0, 'WITHSCORES')
  local set = redis.pcall('ZADD', q.base .. Keys.TIMERS, 'LT', at, Timer.FLOW .. ' ' .. flow)
  if is_unreadable(set) then return end
  redis.call('ZADD', q.base .. Keys.SCHEDULED, 'LT', at, Timer.FIRST)
  if head and (not head[1] or at < tonumber(head[2])) then Lanes.push(q, Keys.NORMAL, '', false) end
end
function Flows.stop(q, flow)
  is_unreadable(redis.pcall('ZREM', q.base .. Keys.TIMERS, Timer.FLOW .. ' ' .. flow))
end

-- Adds an item of work. Whoever holds the flow finds it there.
function Flows.add(q, flow, item, at, wakes)
  redis.call('RPUSH', Keys.flow_work(q, flow), item)
  if Flows.of(q, flow).held <= q.now then Flows.remind(q, flow, at, wakes) end
end

-- Notes that a job of a flow ends: before its record says so, and so whoever looks may find that it has not. A
-- worker that settles it takes the step at once.
function Flows.note(q, id, place, is_settled)
  if q.own_end == id or not Flows.of(q, place[1]).is_open then return end
  local item = string.format('%.0f %s', place[2], id)
  Flows.add(q, place[1], item, is_settled and q.now + Flows.GRACE or q.now, not is_settled)
end

-- Lets a step end the flow's own record, which is no news to whoever takes it.
function Flows.ends_by_step(q, flow) q.own_end = flow end

-- Writes states of nodes: `delta` has how many nodes there are, and offsets and texts in turn.
function Flows.write_states(q, flow, delta)
  local key = Keys.flow_states(q, flow)
  local length = redis.call('STRLEN', key)
  if length < delta[1] then redis.call('SETRANGE', key, length, string.rep(Flows.WAITS, delta[1] - length)) end
  for i = 2, #delta, 2 do redis.call('SETRANGE', key, delta[i], delta[i + 1]) end
end

-- Does what was left of a step that was applied, if its script was refused after that. If that step was the last
-- one, `close` forgets `delta`.
function Flows.complete(q, flow, delta, is_over)
  if not delta then return end
  Flows.write_states(q, flow, cmsgpack.unpack(delta))
  if not is_over then redis.call('HDEL', Keys.flow(q, flow), 'delta') end
end

-- Lets the record of a job that has ended expire in `ttl` ms; that of a dead one not before it leaves the dead
-- jobs.
function Flows.let_go(q, id, job, ttl, dead_ttl)
  if not job or not Record.has_ended(job) then return end
  if Record.origins_of(job) then -- outbox_remove.lua lets it go
    job[Field.EXTRA].origins[1] = q.now + ttl
    Record.save(q, id, job)
    return
  end
  local died = job[Field.STATE] == 'failed' and redis.call('ZSCORE', q.base .. Keys.DEAD, id)
  if died then ttl = math.max(ttl, tonumber(died) + dead_ttl - q.now) end
  local has_body = job[Field.JOB] == true or job[Field.OUTCOME] == true
  if ttl <= 0 then
    redis.call('DEL', Keys.job(q, id), Keys.body(q, id))
    return
  end
  if has_body then
    redis.call('PEXPIRE', Keys.body(q, id), ttl)
  else
    redis.call('DEL', Keys.body(q, id)) -- what a script has left that was refused at its end
  end
  redis.call('PEXPIRE', Keys.job(q, id), ttl)
end

-- Removes some flows from FLOWS that are deleted: of those that are chosen at random, twice as many as were added.
function Flows.clear_some(q)
  local some = redis.call('ZRANDMEMBER', q.base .. Keys.FLOWS, Flows.TRIED)
  for _, id in ipairs(some) do
    if redis.call('EXISTS', Keys.flow(q, id)) == 0 then redis.call('ZREM', q.base .. Keys.FLOWS, id) end
  end
end

-- Lets the keys of a flow that is over expire in `ttl` ms; it may be done twice. The timer goes last.
function Flows.close(q, flow, ttl, dead_ttl)
  Flows.let_go(q, flow, Record.load(q, flow), ttl, dead_ttl)
  local flows, kept = q.base .. Keys.FLOWS, math.max(1, ttl)
  redis.call('ZADD', flows, 'XX', redis.call('HGET', Keys.flow(q, flow), 'begun'), flow)
  is_unreadable(redis.pcall('SREM', q.base .. Keys.WAITING, flow))
  redis.call('DEL', Keys.flow_work(q, flow))
  redis.call('PEXPIRE', Keys.flow_parts(q, flow), kept)
  redis.call('PEXPIRE', Keys.flow_states(q, flow), kept)
  redis.call('PEXPIRE', Keys.flow(q, flow), kept)
  redis.call('HDEL', Keys.flow(q, flow), 'delta')
  Flows.clear_some(q)
  local first = redis.call('ZRANGE', flows, 0, 0, 'WITHSCORES')
  if first[1] and tonumber(first[2]) >= 0 then -- no other one is open
    redis.call('PEXPIRE', flows, math.max(kept, redis.call('PTTL', flows)))
  end
  Flows.stop(q, flow)
end
