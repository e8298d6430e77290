-- Lists the jobs that the entries of a lane name, in the order in which they are claimed or the other way round,
-- from a place on. Some of them may be claimed, cancelled or moved: their records say so.
--
-- A lane is three streams; see lib/lanes.lua. A claim moves jobs between them: of an entry that names more jobs
-- than it takes, the others go to `rest`, in their order; those that were delivered to a blocking read go to
-- `front`. So the place is that of a job, not of an entry: whether the jobs in `rest` come before or after it is
-- seen from whether it is among them. Jobs that come to `front` meanwhile are named, though some may have been
-- named before.
--
-- NEEDS: call, keys, entries
-- USES: reads lanes, paused
-- KEYS: 1 base key
-- ARGV: 1 the lane, 2 'oldest' (in the order of claims) or 'newest' first, 3 the most jobs; then the place after
--   which it continues, 4 the stream ('' to begin, 'rest' or 'main', or 'front', which is last if the newest come
--   first),
--   5 the entry, 6 the job, 7 the last entry of `front` that was read ('' for none) if the oldest come first
-- REPLY: {the stream, the entry and the entry of `front` up to which it has looked; 1 if there may be more, else
--   0, or 2 if there is no more and nothing of the queue is set aside; and per job the stream, the entry and its
--   id}
local lane, oldest, most = ARGV[1], ARGV[2] == 'oldest', tonumber(ARGV[3])
local part, place, job, read_front = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
-- The most entries of the lane that a call reads, since many may name no job; of `rest`; and with one command.
local READ_LIMIT, REST_LIMIT, AT_ONCE = 1000, 200, 100
local reply, left = {part, place, read_front, 0}, READ_LIMIT

local function numbers_of(entry)
  local time, nth = string.match(entry, '^(%d+)-(%d+)$')
  return tonumber(time) or 0, tonumber(nth) or 0
end
local function is_after(a, b)
  local time_a, nth_a = numbers_of(a)
  local time_b, nth_b = numbers_of(b)
  return time_a > time_b or time_a == time_b and nth_a > nth_b
end

-- The last entry of a stream that was delivered, and the first entry whose jobs may wait, as XRANGE takes it:
-- those before it were claimed, and are only not trimmed yet.
local function delivered(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', Keys.lane(q, stream))
  if type(groups) ~= 'table' or groups.err then return '0-0', '-' end
  for _, fields in ipairs(groups) do
    local group = {}
    for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
    if group.name == Keys.GROUP then
      local last = group['last-delivered-id']
      local pending = redis.pcall('XPENDING', Keys.lane(q, stream), Keys.GROUP)
      if not is_unreadable(pending) and pending[1] > 0 then return last, pending[2] end
      return last, '(' .. last
    end
  end
  return '0-0', '-'
end

-- Whether an entry is not before the first one, which `delivered` has returned.
local function is_in(first, entry)
  if first == '-' then return true end
  if string.sub(first, 1, 1) == '(' then return is_after(entry, string.sub(first, 2)) end
  return not is_after(first, entry)
end

-- The entries of a stream between two ids, in the order of the list.
local function entries_of(stream, from, to, count)
  local key, found = Keys.lane(q, stream), nil
  if oldest then
    found = redis.pcall('XRANGE', key, from, to, 'COUNT', count)
  else
    found = redis.pcall('XREVRANGE', key, to, from, 'COUNT', count)
  end
  return is_unreadable(found) and {} or found
end

-- The ids of an entry in the order of the list, and at which position the job of the place is, if it is there.
local function ids_of(entry)
  local ids, ordered, at = Entries.named_by(entry), {}, nil
  for i = 1, #ids do
    ordered[i] = oldest and ids[i] or ids[#ids + 1 - i]
    if job ~= '' and ordered[i] == job then at = i end
  end
  return ordered, at
end

local function is_full() return #reply - 4 >= 3 * most or left <= 0 end

local function looked_at(stream, entry)
  if stream == 'front' and oldest then
    reply[3] = entry
  else
    reply[1], reply[2] = stream, entry
  end
end

-- Names jobs of an entry, from a position on; returns whether all had room.
local function name(stream, entry, ids, first)
  for i = first, #ids do
    if is_full() and stream ~= 'front' then return false end -- an entry of `front` is read whole
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3] = stream, entry, ids[i]
    looked_at(stream, entry)
  end
  looked_at(stream, entry)
  return true
end

-- Names the jobs of a stream after an entry; '' to begin. If the place is in that entry, also those of the entry
-- that come after its job. Returns whether all were named.
local function walk(stream, short, after, is_place)
  local _, first = delivered(stream)
  is_place = is_place and after ~= ''
  while true do
    local from, to, edge = first, '+', (is_place and '' or '(') .. after
    if after ~= '' and not oldest then to = edge end
    if after ~= '' and oldest and is_in(first, after) then from = edge end
    local found = entries_of(stream, from, to, math.max(1, math.min(AT_ONCE, left, math.ceil(most / 8))))
    for _, each in ipairs(found) do
      if is_full() then return false end
      left = left - 1
      local ids, at = ids_of(each)
      local start = is_place and each[1] == after and (at or #ids) + 1 or 1
      if not name(short, each[1], ids, start) then return false end
      after = each[1]
    end
    if not found[1] then return true end
    is_place = false
  end
end

-- Where the jobs of `rest` begin that were not named yet: the position of an entry, and of a job in it; nil if all
-- were named. These jobs and those of the lane are one sequence, and the job of the place is one of it.
local function start_in_rest(found)
  if part == '' then return 1, 1 end
  for i, entry in ipairs(found) do
    local _, at = ids_of(entry)
    if at then return i, at + 1 end
  end
  local last, first = delivered(lane)
  if oldest then
    -- If it waits in the lane, it comes after all of these. Else it was claimed, and so were all before it.
    if part == 'main' and is_after(place, last) then return nil end
  elseif part ~= 'main' or not is_in(first, place) then
    -- It was claimed, so it came before all of these.
    return nil
  end
  return 1, 1
end

local function walk_rest()
  local _, first = delivered(Keys.rest_of(lane))
  local found = entries_of(Keys.rest_of(lane), first, '+', REST_LIMIT)
  local start, start_at = start_in_rest(found)
  for i = start or #found + 1, #found do
    if is_full() then return false end
    if not name('rest', found[i][1], (ids_of(found[i])), i == start and start_at or 1) then return false end
  end
  return true
end

local function walk_main() return walk(lane, 'main', part == 'main' and place or '', true) end
local function walk_front()
  local from = oldest and read_front or part == 'front' and place or ''
  return walk(Keys.front_of(lane), 'front', from, false)
end

local ways = oldest and {walk_front, walk_rest, walk_main} or {walk_main, walk_rest, walk_front}
local first = not oldest and (part == 'rest' and 2 or part == 'front' and 3) or 1
for i = first, #ways do
  if not ways[i]() then
    reply[4] = 1
    break
  end
end
if reply[4] == 0 and redis.call('EXISTS', q.base .. Keys.PAUSED) == 0 then reply[4] = 2 end
return reply
