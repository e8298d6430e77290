-- Adds jobs whose id the queue does not have yet. A job without a `state` field is queued.
--
-- KEYS: 1 base key
-- ARGV: four per job: id, envelope, lane ('' for normal), due: '' for at once, '+N' for N ms from now, or the
--   time in ms since the epoch
-- REPLY: the positions (from 1) of the jobs that were there already
local present = {}
for i = 1, #ARGV, 4 do
  local id, lane, due = ARGV[i], ARGV[i + 2], ARGV[i + 3]
  local key = job_key(id)
  if redis.call('EXISTS', key) == 1 then
    present[#present + 1] = (i + 3) / 4
  else
    if lane == '' then
      redis.call('HSET', key, 'job', ARGV[i + 1], 'sent', now)
    else
      redis.call('HSET', key, 'job', ARGV[i + 1], 'sent', now, 'lane', lane)
    end
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
end
return present
