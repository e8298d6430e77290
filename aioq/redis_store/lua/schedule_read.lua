-- Reads schedules: some by their ids, those whose tick is due, or all; or what is kept for a while of those that were
-- removed because no code declares them any more.
--
-- NEEDS: base, common, shapes, runs, records, push, lanes, schedules
-- KEYS: 1 base key
-- ARGV: 1 'ids', 'due', 'all' or 'left', 2 the most of those that are due, 3 how many of those to pass over,
--   then one per schedule: its id, for 'ids' and 'left'
-- REPLY: {now, ms until the first tick that is still to come (-1 for none), and per schedule {id, its fields and
--   values ...}: the id alone where there is none, the id and '' where its key holds something else}
local missing = without_index()
if missing then return missing end

local which, ids = ARGV[1], {}
for i = 4, #ARGV do ids[#ids + 1] = ARGV[i] end
if which == 'due' then
  ids = redis.call('ZRANGEBYSCORE', SCHEDULES, '-inf', now, 'LIMIT', tonumber(ARGV[3]), tonumber(ARGV[2]))
elseif which == 'all' then
  ids = redis.call('ZRANGE', SCHEDULES, 0, -1)
end

local function read(id)
  local is_there = redis.call('ZSCORE', SCHEDULES, id) and true or false
  if is_there == (which == 'left') then return {id} end
  local fields = redis.pcall('HGETALL', schedule_key(id))
  if is_unreadable(fields) or not fields[1] then return is_there and {id, ''} or {id} end
  return {id, unpack(fields)}
end

local following = redis.call('ZRANGEBYSCORE', SCHEDULES, '(' .. now, '(inf', 'WITHSCORES', 'LIMIT', 0, 1)
local reply = {now, following[2] and following[2] - now or -1}
for _, id in ipairs(ids) do reply[#reply + 1] = read(id) end
return reply
