-- Names keys of a limit that have jobs that wait, in several calls.
--
-- NEEDS: call, keys, groups
-- USES: reads blocked, group, tokens
-- KEYS: 1 base key
-- ARGV: 1 the limit, 2 where to continue ('' to begin), 3 about how many to look at
-- REPLY: {where the next call continues ('' if nothing is left), and keys}
local name, reply, noted = ARGV[1], {''}, {}
local part, cursor = string.match(ARGV[2], '^(%a)(%d+)$')
local function read(found)
  if is_unreadable(found) then return '0', {} end
  return found[1], found[2]
end

local function add(key)
  if noted[key] or redis.call('EXISTS', Keys.group(q, name .. ':' .. key)) == 0 then return end
  noted[key] = true
  reply[#reply + 1] = key
end

if part ~= 't' then
  local following, keys = read(redis.pcall('SSCAN', Keys.blocked(q, name), cursor or 0, 'COUNT', ARGV[3]))
  for _, key in ipairs(keys) do add(key) end
  if following ~= '0' then
    reply[1] = 'b' .. following
    return reply
  end
  cursor = 0
end
-- Of those that have tokens, all that are not named above.
local following, places = read(redis.pcall('HSCAN', q.base .. Keys.TOKENS, cursor, 'COUNT', ARGV[3]))
for i = 1, #places, 2 do
  local group = string.match(places[i], '^%S+ (.*)$')
  if group and Groups.limit_of(group) == name then
    local key = Groups.key_of(group)
    if redis.pcall('SISMEMBER', Keys.blocked(q, name), key) == 0 then add(key) end
  end
end
if following ~= '0' then reply[1] = 't' .. following end
return reply
