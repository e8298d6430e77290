-- Cancels jobs: one that waits to be run ends here, the worker of a running one is told.
--
-- KEYS: 1 base key
-- ARGV: 1 the outcome to store, 2 how long to keep it in ms, 3 the prefix of workers' channels, 4 ms a job is to be
--   found after its send, then job ids
-- REPLY: per job the state it was in, '' for no such job
local outcome, ttl, prefix, reply = ARGV[1], tonumber(ARGV[2]), ARGV[3], {}
tombstone = tonumber(ARGV[4])
for i = 5, #ARGV do
  local id = ARGV[i]
  local key = job_key(id)
  local job = redis.pcall('HMGET', key, 'sent', 'state', 'worker', 'waiters')
  local state = not job.err and job[1] and (job[2] or 'queued') or ''
  if state == 'running' then
    redis.call('HSET', key, 'cancel', outcome, 'cancel_ttl', ttl)
    redis.call('SADD', cancel_key(job[3]), id)
    redis.call('PUBLISH', prefix .. job[3], id)
  elseif state == 'queued' or state == 'scheduled' or state == 'waiting' then
    -- Its entry in the lane stays behind; a claim passes over it.
    finish(id, 'cancelled', outcome, ttl, job[4])
    redis.call('ZREM', SCHEDULED, id)
  end
  reply[i - 4] = state
end
publish()
return reply
