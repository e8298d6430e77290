-- Stores or deletes schedules, each only where nobody has written it since it was read.
--
-- KEYS: 1 base key
-- ARGV: ten per schedule: id, the revision it must have (0 for none), definition ('' to delete it), envelope, lane
--   ('' for normal), the hash of its definition in code, marks, next tick in ms since the epoch ('' for none), runs,
--   skipped
-- REPLY: the positions (from 1) of the schedules that were refused
local refused = {}

local function delete(id)
  local held = redis.call('HGET', schedule_key(id), 'held')
  -- What is held back will not be let go by a schedule that is gone.
  if held then let_next(redis.call('HGET', schedule_key(id), 'current') or held) end
  redis.call('DEL', schedule_key(id))
  redis.call('ZREM', SCHEDULES, id)
end

for i = 1, #ARGV, 10 do
  local id, key, tick = ARGV[i], schedule_key(ARGV[i]), ARGV[i + 7]
  if (redis.call('HGET', key, 'rev') or '0') ~= ARGV[i + 1] then
    refused[#refused + 1] = (i + 9) / 10
  elseif ARGV[i + 2] == '' then
    delete(id)
  else
    local first = until_first(SCHEDULES)
    redis.call('HSET', key, 'definition', ARGV[i + 2], 'job', ARGV[i + 3], 'lane', ARGV[i + 4], 'code', ARGV[i + 5],
      'marks', ARGV[i + 6], 'next', tick, 'runs', ARGV[i + 8], 'skipped', ARGV[i + 9])
    redis.call('HINCRBY', key, 'rev', 1)
    redis.call('ZADD', SCHEDULES, tick == '' and '+inf' or tick, id)
    -- Before all others: an entry without a job wakes one worker, who learns of it.
    if tick ~= '' and (first < 0 or tonumber(tick) - now < first) then push(nil, '', false) end
  end
end
return refused
