-- Has a worker of this queue carry on a bulk operation at some time, or no worker any more.
--
-- NEEDS: call, keys, timers, lanes
-- USES: reads scheduled, standing; writes idle, lanes, scheduled, standing, timers, tokens, wakeable; publishes
--   dispatched
-- KEYS: 1 base key
-- ARGV: 1 the operation, 2 in how many ms; '' for never, 3 '1' if a worker is to learn of it now, '' if it is
--   enough that one does with its next claim or renewal
-- REPLY: 1
if ARGV[2] == '' then
  is_unreadable(redis.pcall('ZREM', q.base .. Keys.TIMERS, Timer.OPERATE .. ' ' .. ARGV[1]))
  return 1
end
local at = q.now + tonumber(ARGV[2])
local head = redis.call('ZRANGE', q.base .. Keys.SCHEDULED, 0, 0, 'WITHSCORES')
Timer.set(q, Timer.OPERATE, ARGV[1], at)
-- One worker learns of it, if it is not known when the next timer is due.
if ARGV[3] == '1' and (not head[1] or at < tonumber(head[2])) then Lanes.push(q, Keys.NORMAL, '', false) end
return 1
