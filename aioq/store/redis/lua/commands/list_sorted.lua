-- Lists failed or scheduled jobs in the order of their times, from a place on. A place is a time and a job's id:
-- it need not be there (any more), and what comes or goes elsewhere does not move it. Jobs of the same time are in
-- the order of their ids.
--
-- Failed jobs are in two sets, of which one has those that were cut off the other: so these have failed before the
-- others.
--
-- NEEDS: call, keys
-- USES: reads cut, dead, scheduled
-- KEYS: 1 base key
-- ARGV: 1 'dead' or 'scheduled', 2 'oldest' or 'newest' first, 3 the most jobs, 4 the first time ('-inf' for all),
--   5 the last time ('+inf' for all), 6 the time of the place after which it continues ('' to begin), 7 its id
-- REPLY: per job its id and its time; fewer than asked for if nothing is left
local oldest, most = ARGV[2] == 'oldest', tonumber(ARGV[3])
local first_time, last_time, time, id = ARGV[4], ARGV[5], ARGV[6], ARGV[7]

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
local function rank_of(key, place_time, place_id)
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

local reply = {}

-- Adds jobs of one set to the reply.
local function list(key)
  local size, left = redis.pcall('ZCARD', key), most - #reply / 2
  if is_unreadable(size) then return end
  local from = first_time == '-inf' and 0 or redis.call('ZCOUNT', key, '-inf', '(' .. first_time)
  local to = last_time == '+inf' and size or redis.call('ZCOUNT', key, '-inf', last_time)
  if time ~= '' then
    local rank, is_there = rank_of(key, time, id)
    if oldest then from = math.max(from, rank + (is_there and 1 or 0)) else to = math.min(to, rank) end
  end
  if oldest then to = math.min(to, from + left) else from = math.max(from, to - left) end
  if from >= to then return end
  local found = redis.call('ZRANGE', key, from, to - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local at = oldest and i or #found - i
    reply[#reply + 1], reply[#reply + 2] = found[at], found[at + 1]
  end
end

if ARGV[1] == 'scheduled' then
  list(q.base .. Keys.SCHEDULED)
else
  list(q.base .. (oldest and Keys.CUT or Keys.DEAD))
  list(q.base .. (oldest and Keys.DEAD or Keys.CUT))
end
return reply
