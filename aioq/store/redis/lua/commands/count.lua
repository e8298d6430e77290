-- Counts jobs, or estimates how many there are.
--
-- NEEDS: call, keys, timers, entries, lanes
-- USES: reads cut, dead, held, lanes, leftovers, scheduled, schedules, workers
-- KEYS: 1 base key
-- ARGV: 1 what to count: 'dead', 'scheduled', 'running' or 'queued' jobs; 'ahead' for the queued jobs that are
--   claimed before one of them; 'keys' for the queue's main keys, of which one that is not used has none;
--   'nothing' for the time alone, 2 the first time of dead and scheduled jobs ('-inf' for all), or the lane of
--   that one, 3 the last time ('+inf' for all), or when that one came to its lane, 4 where to continue with
--   running ones (0 to begin)
-- REPLY: {the time, the number, 1 if it is exact, where the next call continues ('0' if nothing is left), how many
--   of the dead jobs were cut off the others}
local what, first, last, cursor = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- About how many workers are looked at in a call; and how many entries of a lane, for how many jobs one names, and
-- for how many are claimed and only not trimmed yet.
local WORKERS_AT_ONCE, SAMPLE, UNTRIMMED = 1000, 50, 300

local function sum(found)
  return is_unreadable(found) and 0 or found
end

local counts = {}
function counts.dead()
  -- Of those that were cut off, the records of some may be gone.
  local cut = sum(redis.pcall('ZCOUNT', q.base .. Keys.CUT, first, last))
  return sum(redis.pcall('ZCOUNT', q.base .. Keys.DEAD, first, last)) + cut, cut == 0 and 1 or 0, '0', cut
end

function counts.scheduled()
  local timer = redis.pcall('ZSCORE', q.base .. Keys.SCHEDULED, Timer.FIRST)
  local found = sum(redis.pcall('ZCOUNT', q.base .. Keys.SCHEDULED, first, last))
  -- The time of the first timer is no job. It may be outside of the times that are asked for.
  local at = timer and not is_unreadable(timer) and tonumber(timer)
  local is_counted = at and (first == '-inf' or tonumber(first) <= at) and (last == '+inf' or at <= tonumber(last))
  return is_counted and found - 1 or found, 1
end

function counts.running()
  local some = redis.pcall('ZSCAN', q.base .. Keys.WORKERS, cursor, 'COUNT', WORKERS_AT_ONCE)
  if is_unreadable(some) then return 0, 1 end
  local found = 0
  for i = 1, #some[2], 2 do found = found + sum(redis.pcall('SCARD', Keys.held(q, some[2][i]))) end
  return found, 1, some[1]
end

-- How many jobs the entries of a stream name that were not claimed: by its length, and by some entries at both
-- ends.
local function in_stream(stream)
  local key = Keys.lane(q, stream)
  local length = redis.pcall('XLEN', key)
  if is_unreadable(length) or length == 0 then return 0 end
  local groups, claimed_to, lag = redis.pcall('XINFO', 'GROUPS', key), nil, nil
  for _, fields in ipairs(type(groups) == 'table' and not groups.err and groups or {}) do
    local group = {}
    for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
    if group.name == Keys.GROUP then claimed_to, lag = group['last-delivered-id'], group.lag end
  end
  local from = claimed_to and '(' .. claimed_to or '-'
  local waiting = tonumber(lag or nil)
  if not waiting then
    waiting = claimed_to and length - #redis.call('XRANGE', key, '-', claimed_to, 'COUNT', UNTRIMMED) or length
  end
  local entries, named = redis.call('XRANGE', key, from, '+', 'COUNT', SAMPLE), 0
  if #entries == SAMPLE then
    for _, entry in ipairs(redis.call('XREVRANGE', key, '+', from, 'COUNT', SAMPLE)) do
      entries[#entries + 1] = entry
    end
  end
  for _, entry in ipairs(entries) do named = named + Entries.count_in(entry) end
  if #entries < SAMPLE then return named end
  return math.floor(waiting * named / #entries + 0.5)
end

function counts.queued()
  local left, named, found = Lanes.left(q), {}, 0
  local function add(lane, stream) named[lane] = (named[lane] or 0) + in_stream(stream) end
  for _, stream in ipairs(Keys.LANES) do add(Keys.lane_of(stream), stream) end
  for _, stream in ipairs(Keys.ASIDE) do add(string.match(stream, '^aside%-([^:]*)'), stream) end
  for lane, ids in pairs(named) do found = found + math.max(0, ids - (left[lane] or 0)) end
  return found, 0
end

-- By the time of that job, between the times of the first and the last entry that wait in its lane. What was left
-- in its lane is taken to be spread over it evenly.
function counts.ahead()
  local left, named, found = Lanes.left(q), {}, 0
  for _, stream in ipairs(Keys.LANES) do
    if stream == first then break end
    local lane = Keys.lane_of(stream)
    named[lane] = (named[lane] or 0) + in_stream(stream)
  end
  local before = named[first] or 0
  for lane, ids in pairs(named) do
    if lane ~= first then found = found + math.max(0, ids - (left[lane] or 0)) end
  end
  local key, groups, from = Keys.lane(q, first), redis.pcall('XINFO', 'GROUPS', Keys.lane(q, first)), '-'
  for _, fields in ipairs(type(groups) == 'table' and not groups.err and groups or {}) do
    for i = 1, #fields, 2 do
      if fields[i] == 'last-delivered-id' then from = '(' .. fields[i + 1] end
    end
  end
  local head = redis.pcall('XRANGE', key, from, '+', 'COUNT', 1)
  local tail = redis.pcall('XREVRANGE', key, '+', from, 'COUNT', 1)
  if is_unreadable(head) or is_unreadable(tail) or not head[1] or not tail[1] then
    return found + math.max(0, before - (left[first] or 0)), 0
  end
  local function time_of(entry) return tonumber(string.match(entry[1], '^%d+')) end
  local begin, length = time_of(head[1]), time_of(tail[1]) - time_of(head[1])
  local share = length > 0 and (tonumber(last) - begin) / length or 0.5
  local main = in_stream(first)
  local part = 1 - math.min(1, (left[first] or 0) / math.max(1, before + main))
  return found + math.floor((before + main * math.max(0, math.min(1, share))) * part + 0.5), 0
end

function counts.keys()
  local found = 0
  for _, stream in ipairs(Keys.LANES) do found = found + redis.call('EXISTS', Keys.lane(q, stream)) end
  for _, stream in ipairs(Keys.ASIDE) do found = found + redis.call('EXISTS', Keys.lane(q, stream)) end
  local others = redis.call('EXISTS', q.base .. Keys.SCHEDULED, q.base .. Keys.DEAD, q.base .. Keys.CUT,
    q.base .. Keys.WORKERS, q.base .. Keys.SCHEDULES)
  return found + others, 1
end

function counts.nothing() return 0, 1 end

local found, is_exact, following, cut = counts[what]()
return {q.now, found, is_exact, following or '0', cut or 0}
