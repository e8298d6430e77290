-- Reads the records of bulk operations; called for the App.
--
-- NEEDS: keys
-- USES: reads operation, operations
-- KEYS: 1 base key
-- ARGV: 1 how many of the newest to read, beside those that are named; then ids
-- REPLY: the time, and per operation its id, and the fields and values of its record (none if there is none)
local ids, reply = {}, {q.now}
for i = 2, #ARGV do ids[#ids + 1] = ARGV[i] end
local newest = tonumber(ARGV[1])
for _, id in ipairs(newest > 0 and redis.call('ZREVRANGE', q.base .. Keys.OPERATIONS, 0, newest - 1) or {}) do
  ids[#ids + 1] = id
end
for _, id in ipairs(ids) do
  reply[#reply + 1] = id
  reply[#reply + 1] = redis.call('HGETALL', Keys.operation(q, id))
end
return reply
