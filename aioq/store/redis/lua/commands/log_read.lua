-- Reads lines of a job's log.
--
-- NEEDS: call, keys
-- USES: reads log
-- KEYS: 1 base key
-- ARGV: 1 job, 2 the number of the line after which to begin (0 for all), 3 the most lines
-- REPLY: per line its entry's id, which begins with its number, and the line
local reply, bytes = {}, 0
-- A reply ends after the line with which it has as many bytes.
local REPLY_LIMIT = 1048576
local from = string.format('(%.0f-0', tonumber(ARGV[2]))
local found = redis.pcall('XRANGE', Keys.log(q, ARGV[1]), from, '+', 'COUNT', ARGV[3])
if is_unreadable(found) then return reply end
for _, entry in ipairs(found) do
  if bytes >= REPLY_LIMIT then break end
  local line = entry[2][2] or ''
  bytes = bytes + #line
  reply[#reply + 1], reply[#reply + 2] = entry[1], line
end
return reply
