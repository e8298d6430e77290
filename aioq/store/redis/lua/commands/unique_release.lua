-- Gives a unique key back for the job that holds it, which goes on without. The job that follows it holds the key
-- then, and is queued.
--
-- NEEDS: unique, hooks
-- USES: reads job, scheduled, standing, unique; writes idle, job, lanes, outbox, scheduled, standing, timers,
--   unique, wakeable; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 the key
-- REPLY: the job that held it, '' for none
local owner, following, is_timed = Unique.noted(q, ARGV[1])
if not owner then return '' end
local held = is_timed or Unique.is_alive(q, ARGV[1], owner)
Hooks.let_follow(q, ARGV[1], following)
return held and owner or ''
