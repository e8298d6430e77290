-- Lists the jobs that schedules hold back, and those that follow another one with their unique key, in several
-- calls: each continues where the one before has ended. What waits during all calls is named at least once.
--
-- NEEDS: call, keys, timers
-- USES: reads schedule, schedules, timers
-- KEYS: 1 base key
-- ARGV: 1 where to continue (0 to begin), 2 about how many schedules, and how many timers, to look at
-- REPLY: {where the next call continues ('0' if nothing is left), and the ids of the jobs}
local in_timers, cursor = string.match(ARGV[1], '^(t?)(%d+)$')
local reply = {'0'}
local function scan(key, at, ...)
  local found = redis.pcall('ZSCAN', q.base .. key, at, 'COUNT', ARGV[2], ...)
  if is_unreadable(found) then return '0', {} end
  return found[1], found[2]
end

if in_timers == '' then
  local following, members = scan(Keys.SCHEDULES, cursor)
  for i = 1, #members, 2 do
    local held = redis.pcall('HGET', Keys.schedule(q, members[i]), 'held')
    if held and not is_unreadable(held) then reply[#reply + 1] = held end
  end
  reply[1] = following
  if following ~= '0' then return reply end
  cursor = '0'
end
local following, members = scan(Keys.TIMERS, cursor, 'MATCH', Timer.FOLLOW .. ' *')
for i = 1, #members, 2 do reply[#reply + 1] = string.sub(members[i], #Timer.FOLLOW + 2) end
if following ~= '0' then reply[1] = 't' .. following end
return reply
