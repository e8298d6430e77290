-- Returns outcomes that are there, and registers the caller for the others. One step: nothing falls between.
--
-- KEYS: 1 base key
-- ARGV: 1 the caller's channel, then job ids
-- REPLY: per job: the outcome; nil where the caller is registered; 0 where there is no such job
local channel, reply = ARGV[1], {}
for i = 2, #ARGV do
  local key = job_key(ARGV[i])
  local job = redis.pcall('HMGET', key, 'state', 'outcome', 'waiters', 'sent')
  local state = job[1]
  if job.err or not job[4] then
    reply[i - 1] = 0
  elseif state == 'succeeded' or state == 'failed' or state == 'cancelled' then
    reply[i - 1] = job[2]
  else
    reply[i - 1] = false
    if not job[3] then
      redis.call('HSET', key, 'waiters', channel)
    elseif not string.find(' ' .. job[3] .. ' ', ' ' .. channel .. ' ', 1, true) then
      -- Past this many waiting processes the others live by their safety poll.
      local _, spaces = string.gsub(job[3], ' ', '')
      if spaces + 1 < MAX_WAITERS then redis.call('HSET', key, 'waiters', job[3] .. ' ' .. channel) end
    end
  end
end
return reply
