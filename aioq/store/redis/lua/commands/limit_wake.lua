-- Looks at some keys of a limit whose jobs wait, after it has changed: those of which a job may run get a token.
--
-- NEEDS: limit_sweep
-- USES: reads blocked, bucket, group, halted, holders, job, lanes, limits, scheduled, standing, timers, tokens;
--   writes blocked, bucket, holders, idle, lanes, scheduled, standing, timers, tokens, wakeable; publishes
--   dispatched
-- KEYS: 1 base key
-- ARGV: 1 the limit, 2 where to continue (0 to begin)
-- REPLY: where the next call continues, '0' if nothing is left
local following = Sweep.look_at_some(q, ARGV[1], ARGV[2])
return following
