-- Lists the jobs that schedules hold back, and those that follow another one with their unique key, in several
-- calls: each continues where the one before has ended. What waits during all calls is named at least once.
--
-- NEEDS: call, keys
-- USES: reads schedule, schedules, waiting
-- KEYS: 1 base key
-- ARGV: 1 where to continue (0 to begin), 2 about how many schedules, and how many jobs, to look at
-- REPLY: {where the next call continues ('0' if nothing is left), and the ids of the jobs}
local in_following, cursor = string.match(ARGV[1], '^(f?)(%d+)$')
local reply = {'0'}
local function read(found)
  if is_unreadable(found) then return '0', {} end
  return found[1], found[2]
end

if in_following == '' then
  local next_cursor, members = read(redis.pcall('ZSCAN', q.base .. Keys.SCHEDULES, cursor, 'COUNT', ARGV[2]))
  for i = 1, #members, 2 do
    local held = redis.pcall('HGET', Keys.schedule(q, members[i]), 'held')
    if held and not is_unreadable(held) then reply[#reply + 1] = held end
  end
  reply[1] = next_cursor
  if next_cursor ~= '0' then return reply end
  cursor = '0'
end
local next_cursor, ids = read(redis.pcall('SSCAN', q.base .. Keys.WAITING, cursor, 'COUNT', ARGV[2]))
for _, id in ipairs(ids) do reply[#reply + 1] = id end
if next_cursor ~= '0' then reply[1] = 'f' .. next_cursor end
return reply
