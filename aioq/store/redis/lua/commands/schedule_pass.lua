-- Passes on who makes the ticks first, to the worker whose lease was renewed last: a message without a job's id tells
-- it. Nothing where there is no worker, or no tick to come.
--
-- NEEDS: base, common
-- KEYS: 1 base key
-- ARGV: 1 the prefix of workers' channels
-- REPLY: the worker that was told, '' for none
if until_first(SCHEDULES) < 0 then return '' end
local worker = redis.call('ZRANGE', WORKERS, -1, -1, 'WITHSCORES')
if not worker[1] or tonumber(worker[2]) < now then return '' end
redis.call('PUBLISH', ARGV[1] .. worker[1], '')
return worker[1]
