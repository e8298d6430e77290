-- Returns outcomes that are there, and registers the caller for the others. One step: nothing falls between.
--
-- KEYS: 1 base key
-- ARGV: 1 the caller's channel, then job ids
-- REPLY: per job: the outcome; nil where the caller is registered; 0 where there is no such job; 1 where there is an
--   outcome but no room for it
local channel, reply = ARGV[1], {}

-- A reply is closed at this many bytes of outcomes, so that it arrives in time over a slow link too. After that
-- no outcome is even read.
local WAIT_LIMIT = 1048576
local bytes, full = 0, false

local function outcome_of(key)
  if full then return 1 end
  local outcome = redis.call('HGET', key, 'outcome') or ''
  full = bytes > 0 and bytes + #outcome > WAIT_LIMIT
  if full then return 1 end
  bytes = bytes + #outcome
  return outcome
end

local function register(key, waiters)
  if not waiters then
    redis.call('HSET', key, 'waiters', channel)
  elseif not string.find(' ' .. waiters .. ' ', ' ' .. channel .. ' ', 1, true) then
    -- Past this many waiting processes the others live by their safety poll.
    local _, spaces = string.gsub(waiters, ' ', '')
    if spaces + 1 < MAX_WAITERS then redis.call('HSET', key, 'waiters', waiters .. ' ' .. channel) end
  end
end

for i = 2, #ARGV do
  local key = job_key(ARGV[i])
  local job = redis.pcall('HMGET', key, 'state', 'waiters', 'sent')
  local state = job[1]
  if is_unreadable(job) or not job[3] then
    reply[i - 1] = 0
  elseif state == 'succeeded' or state == 'failed' or state == 'cancelled' then
    reply[i - 1] = outcome_of(key)
  else
    reply[i - 1] = false
    register(key, job[2])
  end
end
return reply
