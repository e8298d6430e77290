-- Reads what is paused in a queue.
--
-- NEEDS: call, keys
-- USES: reads paused
-- KEYS: 1 base key
-- ARGV: none
-- REPLY: {the time in ms, then the fields and values of PAUSED; see lib/pauses.lua}
local fields = redis.pcall('HGETALL', q.base .. Keys.PAUSED)
local reply = {q.now}
for _, value in ipairs(is_unreadable(fields) and {} or fields) do reply[#reply + 1] = value end
return reply
