-- Reads schedules: some by their ids, those whose tick is due, or all.
--
-- KEYS: 1 base key
-- ARGV: 1 'ids', 'due' or 'all', 2 the most of those that are due, then one per schedule: its id, for 'ids'
-- REPLY: {now, ms until the first tick that is still to come (-1 for none), and per schedule {id, its fields and
--   values ...}, the fields empty where there is none}
local which, ids = ARGV[1], {}
for i = 3, #ARGV do ids[#ids + 1] = ARGV[i] end
if which == 'due' then
  ids = redis.call('ZRANGEBYSCORE', SCHEDULES, '-inf', now, 'LIMIT', 0, tonumber(ARGV[2]))
elseif which == 'all' then
  ids = redis.call('ZRANGE', SCHEDULES, 0, -1)
end

local following = redis.call('ZRANGEBYSCORE', SCHEDULES, '(' .. now, '(inf', 'WITHSCORES', 'LIMIT', 0, 1)
local reply = {now, following[2] and following[2] - now or -1}
for _, id in ipairs(ids) do
  local fields = redis.pcall('HGETALL', schedule_key(id))
  if fields.err then fields = {} end
  reply[#reply + 1] = {id, unpack(fields)}
end
return reply
