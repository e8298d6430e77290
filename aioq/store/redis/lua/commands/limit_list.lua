-- Lists the limits of a queue.
--
-- NEEDS: call, keys, groups
-- USES: reads blocked, group, halted, limits, tokens
-- KEYS: 1 base key
-- ARGV: none
-- REPLY: {what is noted of each limit, as name and value in turn (lib/limit_numbers.lua); what is paused now, as a
--   limit or a group and until when in turn; and by limit, how many of its keys have jobs that wait, as name and
--   number}
-- The most tokens that are looked at.
local MOST = 5000
local function all(key)
  local found = redis.pcall('HGETALL', key)
  return is_unreadable(found) and {} or found
end

local limits, halted = all(q.base .. Keys.LIMITS), all(q.base .. Keys.HALTED)
local waiting, counted, reply = {}, {}, {}
for i = 1, #limits, 2 do
  local number = redis.pcall('SCARD', Keys.blocked(q, limits[i]))
  waiting[limits[i]] = is_unreadable(number) and 0 or number
end
local some = redis.pcall('HSCAN', q.base .. Keys.TOKENS, 0, 'COUNT', MOST)
for i = 1, is_unreadable(some) and 0 or #some[2], 2 do
  local group = string.match(some[2][i], '^%S+ (.*)$')
  local name = group and Groups.limit_of(group)
  if name and waiting[name] and not counted[group] then
    counted[group] = true
    local is_blocked = redis.pcall('SISMEMBER', Keys.blocked(q, name), Groups.key_of(group))
    local has_any = is_blocked == 0 and redis.call('EXISTS', Keys.group(q, group)) == 1
    if has_any then waiting[name] = waiting[name] + 1 end
  end
end
for name, number in pairs(waiting) do reply[#reply + 1], reply[#reply + 2] = name, number end
local paused = {}
for i = 1, #halted, 2 do
  local at = tonumber(halted[i + 1])
  if at and (at == 0 or at > q.now) then paused[#paused + 1], paused[#paused + 2] = halted[i], halted[i + 1] end
end
return {limits, paused, reply}
