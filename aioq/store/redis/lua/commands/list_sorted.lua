-- Lists dead or scheduled jobs in the order of their times, from a place on. A place is a time and a job's id: it
-- need not be there (any more), and what comes or goes elsewhere does not move it. Jobs of the same time are in the
-- order of their ids.
--
-- NEEDS: call, keys
-- USES: reads dead, scheduled
-- KEYS: 1 base key
-- ARGV: 1 'dead' or 'scheduled', 2 'oldest' or 'newest' first, 3 the most jobs, 4 the first time ('-inf' for all),
--   5 the last time ('+inf' for all), 6 the time of the place after which it continues ('' to begin), 7 its id
-- REPLY: per job its id and its time; fewer than asked for if nothing is left
local key = q.base .. (ARGV[1] == 'dead' and DEAD or SCHEDULED)
local oldest, most, first_time, last_time, time, id = ARGV[2] == 'oldest', tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6], ARGV[7]

-- Whether a text comes before another one in a sorted set: by bytes. Lua compares by the server's locale.
local function is_before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- How many members come before a place, and whether there is one at it. Thousands of jobs may have the same time,
-- so the place among them is found by halving.
local function rank_of(place_time, place_id)
  local from = redis.call('ZCOUNT', key, '-inf', '(' .. place_time)
  local to = from + redis.call('ZCOUNT', key, place_time, place_time)
  while from < to do
    local middle = math.floor((from + to) / 2)
    local other = redis.call('ZRANGE', key, middle, middle)[1]
    if other == place_id then return middle, true end
    if is_before(other, place_id) then from = middle + 1 else to = middle end
  end
  return from, false
end

local size = redis.pcall('ZCARD', key)
if is_unreadable(size) then return {} end
local from = first_time == '-inf' and 0 or redis.call('ZCOUNT', key, '-inf', '(' .. first_time)
local to = last_time == '+inf' and size or redis.call('ZCOUNT', key, '-inf', last_time)
if time ~= '' then
  local rank, is_there = rank_of(time, id)
  if oldest then from = math.max(from, rank + (is_there and 1 or 0)) else to = math.min(to, rank) end
end
if oldest then to = math.min(to, from + most) else from = math.max(from, to - most) end
if from >= to then return {} end
local found = redis.call('ZRANGE', key, from, to - 1, 'WITHSCORES')
if oldest then return found end
local reply = {}
for i = #found - 1, 1, -2 do reply[#reply + 1], reply[#reply + 2] = found[i], found[i + 1] end
return reply
