-- Reads the statistics of a queue's tasks, a part of them at a time.
--
-- NEEDS: call, keys, record_text_read, record, entries, history
-- USES: reads job, lanes, stats, tasks
-- KEYS: 1 base key
-- ARGV: 1 how many tasks the calls before have read, 2 the most tasks of this one, 3 how many minutes to read, the
--   present one included, 4 how many hours
-- REPLY: {time in ms, how many tasks there are, when the oldest queued job came to its lane (-1 for none), then
--   per task: name, and its minutes and then its hours, the present ones first: each a string of counters, false
--   for none}. Only a call with 0 for 1 looks for that job, and returns the name '', which has the jobs that were
--   sent, and those whose task is not known
local first, most, minutes, hours = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local tasks = redis.pcall('ZREVRANGE', q.base .. Keys.TASKS, first, first + most - 1)
local reply = {q.now, 0, -1}
if is_unreadable(tasks) then tasks = {} else reply[2] = redis.call('ZCARD', q.base .. Keys.TASKS) end

-- The statistics of a task over `count` minutes or hours: `letter` and `length`, in ms, say of which.
local function read(task, letter, length, count)
  local keys, last = {}, math.floor(q.now / length)
  for i = 0, count - 1 do keys[#keys + 1] = Keys.stats(q, letter .. last - i .. ':' .. task) end
  for _, value in ipairs(redis.call('MGET', unpack(keys))) do reply[#reply + 1] = value end
end

local function add(task)
  reply[#reply + 1] = task
  read(task, 'm', History.MINUTE, minutes)
  read(task, 'h', History.HOUR, hours)
end

-- When the first queued job of a stream came to its lane, nil for none. Jobs that were cancelled, or moved to
-- another time, leave their entries: of these only so many are looked at.
local LOOKED_AT = 30
local function oldest_in(stream)
  local after, groups = '-', redis.pcall('XINFO', 'GROUPS', Keys.lane(q, stream))
  if groups.err then return nil end -- there is no such stream
  for _, group in ipairs(groups) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    if facts.name == Keys.GROUP then after = '(' .. facts['last-delivered-id'] end
  end
  for _, entry in ipairs(redis.call('XRANGE', Keys.lane(q, stream), after, '+', 'COUNT', LOOKED_AT)) do
    local ids = Entries.named_by(entry)
    local texts = texts_of(q, ids)
    for _, id in ipairs(ids) do
      local job = Record.unpacked(texts[id])
      if job and not job[Field.STATE] then return job[Field.READY] or job[Field.SENT] end
    end
  end
end

local function look(streams)
  for _, stream in ipairs(streams) do
    local oldest = oldest_in(stream)
    if oldest and (reply[3] < 0 or oldest < reply[3]) then reply[3] = oldest end
  end
end
if first == 0 then
  look(Keys.LANES)
  look(Keys.ASIDE)
  add('')
end
for _, task in ipairs(tasks) do
  if task ~= '' then add(task) end
end
return reply
