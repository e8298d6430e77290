-- Counts what is in a queue: the jobs that wait, and the schedules.
--
-- Of each lane at most so many entries are read. A job that was cancelled counts until a claim has met its entry.
--
-- NEEDS: keys, lanes
-- USES: reads held, lanes, scheduled, schedules, timers, waiting, workers
-- KEYS: 1 base key
-- ARGV: 1 how many entries of a lane are read at most, 2 of how many workers the held jobs are counted at most
-- REPLY: {jobs in lanes and jobs that wait, whether there are more of them (1 or 0), scheduled jobs, jobs that
--   workers hold, schedules, timers}
local most = tonumber(ARGV[1])

-- How many jobs an entry names: none if it only wakes a worker, or has the token of a group.
local function named(fields)
  if fields[1] == 'job' then return (fields[2] == '' or string.byte(fields[2]) == Lanes.TAB) and 0 or 1 end
  local width = tonumber(fields[4])
  return fields[3] == 'width' and width and width > 0 and #fields[6] / width or 0
end

local queued, more = redis.call('SCARD', q.base .. Keys.WAITING), 0
local function count(lane)
  local key, last = Keys.lane(q, lane), '-'
  local groups = redis.pcall('XINFO', 'GROUPS', key)
  if not groups.err then -- it is a stream
    for _, group in ipairs(groups) do
      local facts = {}
      for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
      if facts.name == Keys.GROUP then
        -- What was delivered to workers that have not claimed it yet.
        local pending = facts.pending > 0 and redis.call('XPENDING', key, Keys.GROUP, '-', '+', most + 1) or {}
        for i = 1, math.min(#pending, most) do
          for _, entry in ipairs(redis.call('XRANGE', key, pending[i][1], pending[i][1])) do
            queued = queued + named(entry[2])
          end
        end
        if #pending > most then more = 1 end
        last = '(' .. facts['last-delivered-id']
      end
    end
    local entries = redis.call('XRANGE', key, last, '+', 'COUNT', most + 1)
    for i = 1, math.min(#entries, most) do queued = queued + named(entries[i][2]) end
    if #entries > most then more = 1 end
  end
end
for _, lane in ipairs(Keys.LANES) do count(lane) end
for _, lane in ipairs(Keys.ASIDE) do count(lane) end

local scheduled = redis.call('ZCARD', q.base .. Keys.SCHEDULED)
-- The member without a name stands for the timers.
if redis.call('ZSCORE', q.base .. Keys.SCHEDULED, '') then scheduled = scheduled - 1 end
local held = 0
for _, worker in ipairs(redis.call('ZRANGE', q.base .. Keys.WORKERS, 0, tonumber(ARGV[2]) - 1)) do
  held = held + redis.call('SCARD', Keys.held(q, worker))
end
return {
  queued, more, scheduled, held, redis.call('ZCARD', q.base .. Keys.SCHEDULES),
  redis.call('ZCARD', q.base .. Keys.TIMERS),
}
