-- Reads parts of the definition of a flow.
--
-- NEEDS: keys
-- USES: reads flowparts
-- KEYS: 1 base key
-- ARGV: 1 the flow, then one per part: its number
-- REPLY: the parts, nil for one that is not there. Those for which there is no more room are left out at the end
local reply, bytes = {}, 0
-- No further part is read once the reply has this many bytes.
local READ_LIMIT = 1048576
for i = 2, #ARGV do
  if bytes >= READ_LIMIT then break end
  local part = redis.call('HGET', Keys.flow_parts(q, ARGV[1]), ARGV[i])
  bytes, reply[i - 1] = bytes + #(part or ''), part
end
return reply
