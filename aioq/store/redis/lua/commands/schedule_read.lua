-- Reads schedules: some by their ids, those whose tick is due, or all; or the remains of schedules that were
-- deleted because no code declares them any more. All schedules are read in several calls: each continues where
-- the one before has ended, and a schedule that exists during all calls is read at least once.
--
-- NEEDS: call, keys, overlap
-- USES: reads schedule, schedules
-- KEYS: 1 base key
-- ARGV: 1 'ids', 'due', 'all' or 'remains', 2 the most schedules for 'due', or about how many for
--   'all', 3 how many to skip for 'due', or where to continue for 'all' (0 to begin),
--   then one per schedule: its id, for 'ids' and 'remains'
-- REPLY: {now, ms until the first tick that is not due yet (-1 for none), where the next call continues for 'all'
--   ('0' if nothing is left), and per schedule {id, its fields and values ...}. A schedule that does not exist has
--   its id only; one whose key holds something else has its id and ''; one for which this reply has no room has
--   its id and 0}
local missing = Overlap.without_index(q)
if missing then return missing end

-- No further schedule is read once the reply has this many bytes: a schedule's call may be large.
local READ_LIMIT = 1048576
local bytes = 0

local which, ids, cursor = ARGV[1], {}, '0'
for i = 4, #ARGV do ids[#ids + 1] = ARGV[i] end
if which == 'due' then
  ids = redis.call('ZRANGEBYSCORE', q.base .. Keys.SCHEDULES, '-inf', q.now,
    'LIMIT', tonumber(ARGV[3]), tonumber(ARGV[2]))
elseif which == 'all' then
  local found = redis.call('ZSCAN', q.base .. Keys.SCHEDULES, ARGV[3], 'COUNT', ARGV[2])
  cursor = found[1]
  for i = 1, #found[2], 2 do ids[#ids + 1] = found[2][i] end
end

local function read(id)
  if bytes >= READ_LIMIT then return {id, 0} end
  local is_there = redis.call('ZSCORE', q.base .. Keys.SCHEDULES, id) and true or false
  if is_there == (which == 'remains') then return {id} end
  local fields = redis.pcall('HGETALL', Keys.schedule(q, id))
  if is_unreadable(fields) or not fields[1] then return is_there and {id, ''} or {id} end
  for _, field in ipairs(fields) do bytes = bytes + #field end
  return {id, unpack(fields)}
end

local following = redis.call('ZRANGEBYSCORE', q.base .. Keys.SCHEDULES, '(' .. q.now, '(inf', 'WITHSCORES',
  'LIMIT', 0, 1)
local reply = {q.now, following[2] and following[2] - q.now or -1, cursor}
for _, id in ipairs(ids) do reply[#reply + 1] = read(id) end
return reply
