-- Reads schedules: some by their ids, those whose tick is due, or all; or what is kept for a while of those that were
-- removed because no code declares them any more. All of them are read step by step: each call goes on where the one
-- before has ended, and what is there all the time is read once at least.
--
-- NEEDS: call, keys, overlap
-- USES: reads schedule, schedules
-- KEYS: 1 base key
-- ARGV: 1 'ids', 'due', 'all' or 'left', 2 the most of those that are due, or about how many of all, 3 how many of those
--   that are due to pass over, or where to go on with all (0 to begin),
--   then one per schedule: its id, for 'ids' and 'left'
-- REPLY: {now, ms until the first tick that is still to come (-1 for none), where the next call goes on with all ('0' for
--   nowhere), and per schedule {id, its fields and values ...}: the id alone where there is none, the id and '' where its
--   key holds something else, the id and 0 where there is no room for it in this reply}
local missing = Overlap.without_index(q)
if missing then return missing end

-- A reply is closed at this many bytes: a schedule's call may be large.
local READ_LIMIT = 1048576
local bytes = 0

local which, ids, cursor = ARGV[1], {}, '0'
for i = 4, #ARGV do ids[#ids + 1] = ARGV[i] end
if which == 'due' then
  ids = redis.call('ZRANGEBYSCORE', q.base .. SCHEDULES, '-inf', q.now, 'LIMIT', tonumber(ARGV[3]), tonumber(ARGV[2]))
elseif which == 'all' then
  local found = redis.call('ZSCAN', q.base .. SCHEDULES, ARGV[3], 'COUNT', ARGV[2])
  cursor = found[1]
  for i = 1, #found[2], 2 do ids[#ids + 1] = found[2][i] end
end

local function read(id)
  if bytes >= READ_LIMIT then return {id, 0} end
  local is_there = redis.call('ZSCORE', q.base .. SCHEDULES, id) and true or false
  if is_there == (which == 'left') then return {id} end
  local fields = redis.pcall('HGETALL', schedule_key(q, id))
  if is_unreadable(fields) or not fields[1] then return is_there and {id, ''} or {id} end
  for _, field in ipairs(fields) do bytes = bytes + #field end
  return {id, unpack(fields)}
end

local following = redis.call('ZRANGEBYSCORE', q.base .. SCHEDULES, '(' .. q.now, '(inf', 'WITHSCORES', 'LIMIT', 0, 1)
local reply = {q.now, following[2] and following[2] - q.now or -1, cursor}
for _, id in ipairs(ids) do reply[#reply + 1] = read(id) end
return reply
