-- Reads the statistics of a queue's tasks, a part of them at a time.
--
-- NEEDS: call, keys
-- USES: reads stats, tasks
-- KEYS: 1 base key
-- ARGV: 1 how many tasks the calls before have read, 2 the most tasks of this one, 3 how many minutes to read, the
--   present one included, 4 how many hours
-- REPLY: {time in ms, how many tasks there are, then per task: name, and its minutes and then its hours, the present
--   ones first: each a string of counters, false for none}. A call with 0 for 1 also returns the name '', which has
--   the jobs that were sent, and those whose task is not known
local first, most, minutes, hours = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local tasks = redis.pcall('ZREVRANGE', q.base .. TASKS, first, first + most - 1)
local reply = {q.now, 0}
if is_unreadable(tasks) then tasks = {} else reply[2] = redis.call('ZCARD', q.base .. TASKS) end

-- The statistics of a task over `count` minutes or hours: `letter` and `length`, in ms, say of which.
local function read(task, letter, length, count)
  local keys, last = {}, math.floor(q.now / length)
  for i = 0, count - 1 do keys[#keys + 1] = stats_key(q, letter .. last - i .. ':' .. task) end
  for _, value in ipairs(redis.call('MGET', unpack(keys))) do reply[#reply + 1] = value end
end

local function add(task)
  reply[#reply + 1] = task
  read(task, 'm', 60000, minutes)
  read(task, 'h', 3600000, hours)
end

if first == 0 then add('') end
for _, task in ipairs(tasks) do
  if task ~= '' then add(task) end
end
return reply
