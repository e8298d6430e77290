-- Lists the jobs that schedules hold back, in several calls: each continues where the one before has ended. What
-- is held back during all calls is named at least once.
--
-- NEEDS: call, keys
-- USES: reads schedule, schedules
-- KEYS: 1 base key
-- ARGV: 1 where to continue (0 to begin), 2 about how many schedules to look at
-- REPLY: {where the next call continues ('0' if nothing is left), and the ids of the jobs}
local found = redis.pcall('ZSCAN', q.base .. Keys.SCHEDULES, ARGV[1], 'COUNT', ARGV[2])
if is_unreadable(found) then return {'0'} end
local reply, members = {found[1]}, found[2]
for i = 1, #members, 2 do
  local held = redis.pcall('HGET', Keys.schedule(q, members[i]), 'held')
  if held and not is_unreadable(held) then reply[#reply + 1] = held end
end
return reply
