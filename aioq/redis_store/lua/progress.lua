-- Stores what running jobs say of their progress, behind the same fence as a settle.
--
-- KEYS: 1 base key
-- ARGV: 1 worker, then three per job: id, claim, encoded progress
-- REPLY: how many were stored
local stored = 0
for i = 2, #ARGV, 3 do
  local key = job_key(ARGV[i])
  local job = redis.pcall('HMGET', key, 'worker', 'claim', 'state')
  if job[1] == ARGV[1] and job[2] == ARGV[i + 1] and job[3] == 'running' then
    redis.call('HSET', key, 'progress', ARGV[i + 2])
    stored = stored + 1
  end
end
return stored
