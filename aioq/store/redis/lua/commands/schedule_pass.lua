-- Makes the worker whose lease was renewed last the leader of the ticks, by an empty message to it. Does nothing
-- if there is no worker, or no tick to come.
--
-- NEEDS: keys, due
-- USES: reads schedules, workers; publishes worker
-- KEYS: 1 base key
-- ARGV: none
-- REPLY: the worker that was notified, '' for none
if Due.until_first(q, q.base .. Keys.SCHEDULES) < 0 then return '' end
local worker = redis.call('ZRANGE', q.base .. Keys.WORKERS, -1, -1, 'WITHSCORES')
if not worker[1] or tonumber(worker[2]) < q.now then return '' end
redis.call('PUBLISH', Keys.worker_channel(q, worker[1]), '')
return worker[1]
