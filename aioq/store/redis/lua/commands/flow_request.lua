-- Adds an item of work to a flow. Whoever asks for it takes the step.
--
-- NEEDS: keys, flows
-- USES: reads flow, scheduled, standing; writes flowwork, idle, lanes, scheduled, standing, timers, tokens,
--   wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 the flow, 2 the item
-- REPLY: 1; 0 if there is no such flow
if redis.call('EXISTS', Keys.flow(q, ARGV[1])) == 0 then return 0 end
Flows.add(q, ARGV[1], ARGV[2], q.now + Flows.GRACE)
return 1
