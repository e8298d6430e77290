-- Begins a flow: its record and its first item of work. What finds it again is written first, and its key last; a
-- flow that a script has left without its key is nobody's, and flow_take.lua removes it.
--
-- NEEDS: call, keys, record, hooks, history, events, flows
-- USES: reads batch, bucket, counters, flow, flowparts, flows, group, halted, holders, job, lanes, limits,
--   listening, scheduled, standing, timers, tokens, unique; writes batch, blocked, body, bucket, counters, events,
--   flow, flowparts, flows, flowstates, flowwork, group, holders, idle, job, lanes, outbox, scheduled, standing,
--   stats, timers, tokens, unique, waiting, wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 the flow, 2 its head, 3 how many nodes it has, 4 how many parts were written, 5 the envelope of its
--   record, 6 the record's EXTRA, as MessagePack, 7 the channel of a process that will wait for it, '' for none, 8
--   the states of its nodes, '' if all of them wait, 9 the marks of lib/events.lua, 10 its first item of work
-- REPLY: {1 if it has begun, 0 if it had before, or -1 if parts are missing, how many parts are there}
local flow, marks = ARGV[1], ARGV[9]
local there = redis.call('HLEN', Keys.flow_parts(q, flow))
if redis.call('EXISTS', Keys.flow(q, flow)) == 1 then return {0, there} end
if there < tonumber(ARGV[4]) then return {-1, there} end

Flows.remind(q, flow, q.now + Flows.GRACE)
redis.call('PERSIST', Keys.flow_parts(q, flow))
redis.call('DEL', Keys.flow_work(q, flow))
redis.call('RPUSH', Keys.flow_work(q, flow), ARGV[10])
local states = ARGV[8] ~= '' and ARGV[8] or string.rep(Flows.WAITS, tonumber(ARGV[3]))
redis.call('SET', Keys.flow_states(q, flow), states)
is_unreadable(redis.pcall('SADD', q.base .. Keys.WAITING, flow))
redis.call('ZADD', q.base .. Keys.FLOWS, -q.now, flow)
redis.call('PERSIST', q.base .. Keys.FLOWS)
local job = Record.new(q, flow, ARGV[5], nil, nil, 'waiting')
Record.widen(job, Field.EXTRA)
job[Field.EXTRA] = cmsgpack.unpack(ARGV[6])
if ARGV[7] ~= '' then job[Field.WAITERS] = ARGV[7] end
Hooks.run(q, 'enter', flow, job, q.now)
Record.save(q, flow, job)
redis.call('HSET', Keys.flow(q, flow), 'rev', 1, 'head', ARGV[2], 'memo', '', 'nodes', ARGV[3], 'over', 0,
  'held', 0, 'begun', q.now)
Flows.clear_some(q)
if string.find(marks, 's', 1, true) then History.count_sent(q, 1) end
if Events.are_recorded(q, marks) then Events.add_calls(q, 'q', '', {flow}, {ARGV[5]}) end
return {1, there}
