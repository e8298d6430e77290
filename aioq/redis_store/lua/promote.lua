-- Queues scheduled jobs that are due.
--
-- KEYS: 1 base key
-- ARGV: 1 the most jobs in this step
-- REPLY: {how many were queued, {ms until the next one is due, ms until the next tick} (-1 for none)}
local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(due) do
  local key = job_key(id)
  local job = redis.pcall('HMGET', key, 'state', 'lane')
  if not is_unreadable(job) and job[1] == 'scheduled' then
    push(job[2], id, false)
    redis.call('HDEL', key, 'state')
  end
  redis.call('ZREM', SCHEDULED, id)
end
return {#due, next_due()}
