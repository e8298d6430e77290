-- Stores what running jobs say of their progress, behind the same fence as a settle.
--
-- KEYS: 1 base key
-- ARGV: 1 worker, then three per job: id, claim, encoded progress
-- REPLY: the positions (from 1) of the reports that were refused
local refused = {}
for i = 2, #ARGV, 3 do
  local key = job_key(ARGV[i])
  local job = redis.pcall('HMGET', key, 'worker', 'claim', 'state')
  if not is_unreadable(job) and job[1] == ARGV[1] and job[2] == ARGV[i + 1] and job[3] == 'running' then
    redis.call('HSET', key, 'progress', ARGV[i + 2])
  else
    refused[#refused + 1] = (i + 1) / 3
  end
end
return refused
