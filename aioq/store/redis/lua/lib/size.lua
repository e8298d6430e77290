-- Counts what is in a queue of which a bound is set: queued, scheduled and waiting jobs. A send asks for it.
--
-- The number is exact, except that of many jobs of paused tasks, and takes as long for a million jobs as for a
-- hundred. An entry of a lane names one to 64 jobs, and those that were read are trimmed some time later, so its
-- length says little. So marks are set: at about each fiftieth entry of a stream, how many jobs were named up to
-- there. Then only what is between the last entry that was read and the first mark after it is looked at, and what
-- is after the last mark.
--
-- NEEDS: call, keys, timers, entries, lanes
local Size = {}
-- Entries between two marks; how many a call looks at in one stream where others have sent without a bound, of
-- which it learns the rest with the next calls; and of how many jobs that were set aside a sample is taken.
Size.STEP, Size.MOST, Size.SAMPLE = 50, 1000, 200
-- For how many seconds marks are kept.
Size.KEPT = 86400
-- A mark's score is the time in its entry's id and the number behind it, up to this one.
Size.NUMBERS = 2048

-- Where an entry is among the others, as a score; nil for one of very many with the same time.
function Size.place_of(entry)
  local ms, number = string.match(entry, '^(%d+)-(%d+)$')
  if tonumber(number) >= Size.NUMBERS then return nil end
  return string.format('%.0f', tonumber(ms) * Size.NUMBERS + tonumber(number))
end

-- The last entry of a stream that was read.
function Size.read_to(key)
  local groups = redis.pcall('XINFO', 'GROUPS', key)
  for _, fields in ipairs(type(groups) == 'table' and not groups.err and groups or {}) do
    local group = {}
    for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
    if group.name == Keys.GROUP then return group['last-delivered-id'] end
  end
  return '0-0'
end

-- The jobs that entries name.
function Size.named_by(entries)
  local named = 0
  for _, entry in ipairs(entries) do named = named + Entries.count_in(entry) end
  return named
end

-- The entry of a mark, and how many jobs were named up to there.
function Size.parts_of(mark)
  local entry, named = string.match(mark, '^(%S+) (%d+)$')
  return entry, tonumber(named)
end

-- Counts the jobs that are named from an entry on, and sets marks; `named` is how many were up to there.
function Size.go_on(key, marks, entry, named)
  local found, looked_at, since, added = 0, 0, 0, {}
  repeat
    local entries = redis.call('XRANGE', key, '(' .. entry, '+', 'COUNT', Size.STEP)
    for _, each in ipairs(entries) do
      local place = Size.place_of(each[1])
      found, since, entry = found + Entries.count_in(each), since + 1, each[1]
      if since >= Size.STEP and place then
        added[#added + 1], added[#added + 2] = place, entry .. ' ' .. named + found
        since = 0
      end
    end
    looked_at = looked_at + #entries
  until #entries < Size.STEP or looked_at >= Size.MOST
  if added[1] then
    redis.call('ZADD', marks, unpack(added))
    redis.call('EXPIRE', marks, Size.KEPT)
  end
  return found
end

-- How many jobs the entries of a stream name that were not read yet.
function Size.in_stream(q, stream)
  local key, marks = Keys.lane(q, stream), Keys.named(q, stream)
  local length = redis.pcall('XLEN', key)
  if is_unreadable(length) or length == 0 then return 0 end
  local read_to = Size.read_to(key)
  local place = Size.place_of(read_to) or Size.place_of(string.match(read_to, '^%d+') .. '-0')
  redis.call('ZREMRANGEBYSCORE', marks, '-inf', place)
  local first, last = redis.call('ZRANGE', marks, 0, 0)[1], redis.call('ZREVRANGE', marks, 0, 0)[1]
  if not first then return Size.go_on(key, marks, read_to, 0) end
  local from, named_before = Size.parts_of(first)
  local to, named = Size.parts_of(last)
  local before = Size.named_by(redis.call('XRANGE', key, '(' .. read_to, from))
  return before + named - named_before + Size.go_on(key, marks, to, named)
end

-- The same of a stream of jobs that are set aside: of many entries an estimate.
function Size.set_aside(q, stream)
  local key = Keys.lane(q, stream)
  local length = redis.pcall('XLEN', key)
  if is_unreadable(length) or length == 0 then return 0 end
  local entries = redis.call('XRANGE', key, '-', '+', 'COUNT', Size.SAMPLE)
  return math.floor(Size.named_by(entries) * length / #entries + 0.5)
end

-- How many jobs are queued, scheduled, or wait for others.
function Size.of(q)
  local left, named, found = Lanes.left(q), {}, 0
  local function add(lane, count) named[lane] = (named[lane] or 0) + count end
  for _, stream in ipairs(Keys.LANES) do add(Keys.lane_of(stream), Size.in_stream(q, stream)) end
  for _, stream in ipairs(Keys.ASIDE) do
    add(string.match(stream, '^aside%-([^:]*)'), Size.set_aside(q, stream))
  end
  for lane, ids in pairs(named) do found = found + math.max(0, ids - (left[lane] or 0)) end
  local scheduled = redis.pcall('ZCARD', q.base .. Keys.SCHEDULED)
  local timer = redis.pcall('ZSCORE', q.base .. Keys.SCHEDULED, Timer.FIRST)
  local waiting = redis.pcall('SCARD', q.base .. Keys.WAITING)
  local has_timer = timer and not is_unreadable(timer)
  if not is_unreadable(scheduled) then found = found + scheduled - (has_timer and 1 or 0) end
  return is_unreadable(waiting) and found or found + waiting
end
