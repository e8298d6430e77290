-- Adds jobs whose id the queue does not have yet. A job without a `state` field is queued.
--
-- KEYS: 1 base key
-- ARGV: 1 'again' where an earlier call may have added these jobs, else '', then five per job: id, envelope, lane
--   ('' for normal), due ('' for at once, '+N' for N ms from now, or the time in ms since the epoch), nonce ('' where
--   no other send can have the id)
-- REPLY: the positions (from 1) of the jobs that were there already, but not those that the earlier call has added
local again = ARGV[1] ~= ''
local present = {}

local function add(id, envelope, lane, due, nonce)
  local key = job_key(id)
  redis.call('HSET', key, 'job', envelope, 'sent', now)
  if lane ~= '' then redis.call('HSET', key, 'lane', lane) end
  if nonce ~= '' then redis.call('HSET', key, 'nonce', nonce) end
  local at = now
  if due ~= '' then
    at = tonumber(due)
    if string.sub(due, 1, 1) == '+' then at = now + at end
  end
  if at > now then
    redis.call('HSET', key, 'state', 'scheduled')
    schedule(id, at, lane ~= '' and lane or nil)
  else
    push(lane ~= '' and lane or nil, id, false)
  end
end

for i = 2, #ARGV, 5 do
  local id, nonce = ARGV[i], ARGV[i + 4]
  local key = job_key(id)
  -- What ended and is gone is looked for only where the jobs may have been here: a new send may use an id anew.
  local ended = again and redis.call('EXISTS', done_key(nonce ~= '' and nonce or id)) == 1
  if not ended then
    if redis.call('EXISTS', key) == 0 then
      add(id, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], nonce)
    elseif not again or (redis.pcall('HGET', key, 'nonce') or '') ~= nonce then
      present[#present + 1] = (i + 3) / 5
    end
  end
end
return present
