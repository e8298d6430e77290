-- Returns the outcomes that exist, and registers the caller for the others. This is one step, so no outcome is
-- missed.
--
-- NEEDS: keys, record, newer
-- USES: reads body, job; writes job
-- KEYS: 1 base key
-- ARGV: 1 the caller's channel, '' to register nobody, then job ids
-- REPLY: per job: the outcome; nil if the caller is registered now, or must call again because this version cannot
--   read the job's record; 0 if there is no such job; 1 if there is an outcome but no room for it
local channel, reply = ARGV[1], {}
local MAX_WAITERS = 64

-- The most bytes of outcomes in a reply, so that it arrives in time over a slow network too. Once it is full, no
-- further outcome is even read.
local WAIT_LIMIT = 1048576
local bytes, full = 0, false

local function outcome_of(id, job)
  if full then return 1 end
  local outcome = Record.whole(q, id, job[Field.OUTCOME])
  if not outcome then return 0 end
  full = bytes > 0 and bytes + #outcome > WAIT_LIMIT
  if full then return 1 end
  bytes = bytes + #outcome
  return outcome
end

local function register(id, job)
  Record.widen(job, Field.WAITERS)
  local waiters = job[Field.WAITERS]
  if not waiters then
    job[Field.WAITERS] = channel
  elseif string.find(' ' .. waiters .. ' ', ' ' .. channel .. ' ', 1, true) then
    return
  else
    -- Further processes find the outcome by polling.
    local _, spaces = string.gsub(waiters, ' ', '')
    if spaces + 1 >= MAX_WAITERS then return end
    job[Field.WAITERS] = waiters .. ' ' .. channel
  end
  Record.save(q, id, job)
end

for i = 2, #ARGV do
  local job, is_newer = Newer.read(q, ARGV[i])
  if not job then
    reply[i - 1] = redis.call('EXISTS', Keys.job(q, ARGV[i])) == 0 and 0
  elseif Record.has_ended(job) then
    reply[i - 1] = outcome_of(ARGV[i], job)
  else
    reply[i - 1] = false
    if not is_newer and channel ~= '' then register(ARGV[i], job) end
  end
end
return reply
