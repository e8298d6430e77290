-- Pauses a queue or tasks of it, or ends that; and tells the workers, some in each call.
--
-- That something is paused is noted first, and then each worker's lease is marked. If not all calls are made, a
-- sweep marks the others.
--
-- NEEDS: keys, leases, pauses, events
-- USES: reads counters, paused, watched, workers; writes counters, events, idle, paused, standing, wakeable,
--   workers; publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 'pause' or 'resume', 2 when the pause ends, in ms (0 for when it is ended), 3 where to continue telling
--   the workers (0 to begin, with which the pause begins or ends), 4 the marks of lib/events.lua, '' for none,
--   then one per task: its name; none for the whole queue
-- REPLY: where the next call continues ('0' if nothing is left)
local pauses, cursor, fields = ARGV[1] == 'pause', ARGV[3], {}
for i = 5, #ARGV do fields[#fields + 1] = 'task ' .. ARGV[i] end
if not fields[1] then fields[1] = 'queue' end
local WORKERS_AT_ONCE = 500

-- What is paused already stays paused since then.
local function note()
  local before, new = redis.call('HMGET', q.base .. Keys.PAUSED, unpack(fields)), {}
  local over, begun = {}, {}
  for i, field in ipairs(fields) do
    local since, ends = string.match(before[i] or '', '^(%d+) (%d+)$')
    local is_over = since and ends ~= '0' and tonumber(ends) <= q.now
    if is_over then over[#over + 1] = field end
    if not since or is_over then
      since = string.format('%.0f', q.now)
      begun[#begun + 1] = field
    end
    new[2 * i - 1], new[2 * i] = field, since .. ' ' .. ARGV[2]
  end
  redis.call('HSET', q.base .. Keys.PAUSED, unpack(new))
  if begun[1] and Events.are_watched(q, ARGV[4]) then
    Events.add_pauses(q, 'u', over)
    Events.add_pauses(q, 'z', begun)
  end
  -- Nothing is dispatched to a worker directly, and none that stands is woken, until it has claimed again.
  if fields[1] == 'queue' then
    redis.call('UNLINK', q.base .. Keys.IDLE, q.base .. Keys.WAKEABLE, q.base .. Keys.STANDING)
  end
end

if cursor == '0' then
  if pauses then
    note()
  elseif redis.call('EXISTS', q.base .. Keys.PAUSED) == 1 then
    local were_paused = {}
    if Events.are_watched(q, ARGV[4]) then
      for i, value in ipairs(redis.call('HMGET', q.base .. Keys.PAUSED, unpack(fields))) do
        if value then were_paused[#were_paused + 1] = fields[i] end
      end
    end
    Pauses.lift(q, fields, {aside = {}})
    Events.add_pauses(q, 'u', were_paused)
  end
end
local some = redis.call('ZSCAN', q.base .. Keys.WORKERS, cursor, 'COUNT', WORKERS_AT_ONCE)
for i = 1, #some[2], 2 do
  local worker, lease = some[2][i], tonumber(some[2][i + 1])
  if pauses and lease ~= Leases.RECOVERING and not Leases.is_marked(lease) then
    redis.call('ZADD', q.base .. Keys.WORKERS, 'XX', lease + Leases.MARK, worker)
  end
  redis.pcall('PUBLISH', Keys.dispatch_channel(q, worker), Pauses.CHANGED)
end
return some[1]
