-- Reads job records.
--
-- KEYS: 1 base key
-- ARGV: job ids
-- REPLY: per job the fields and values of its record (empty for none), followed by 'due' and the time it is due
--   where it is scheduled
local reply = {}
for i = 1, #ARGV do
  local job = redis.pcall('HGETALL', job_key(ARGV[i]))
  if is_unreadable(job) then job = {} end
  local due = redis.call('ZSCORE', SCHEDULED, ARGV[i])
  if due and #job > 0 then
    job[#job + 1] = 'due'
    job[#job + 1] = due
  end
  reply[i] = job
end
return reply
