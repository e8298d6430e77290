-- Looks at keys of a limit: who holds them, how many wait.
--
-- NEEDS: call, keys, limits
-- USES: reads bucket, group, halted, holders, job, limits
-- KEYS: 1 base key
-- ARGV: 1 how many holders of each are named, then one for each key: its group
-- REPLY: for each {how many hold it, how many wait, when its rate lets the first of these run in ms (0 for now),
--   until when it is paused in ms (0 for until it is resumed, -1 if it is not); then the holders, each with since
--   when in ms}
local reply = {}
local function count(key)
  local found = redis.pcall('ZCARD', key)
  return is_unreadable(found) and 0 or found
end

for i = 2, #ARGV do
  local group = ARGV[i]
  local each = {count(Keys.holders(q, group)), count(Keys.group(q, group)), 0}
  each[3] = Limits.due(q, group)
  each[4] = string.format('%.0f', Numbers.paused_until(q, group) or -1)
  local holders = ARGV[1] ~= '0' and redis.pcall('ZRANGE', Keys.holders(q, group), 0, ARGV[1] - 1, 'WITHSCORES')
  for _, item in ipairs(holders and not is_unreadable(holders) and holders or {}) do each[#each + 1] = item end
  reply[#reply + 1] = each
end
return reply
