-- Writes parts of the definition of a flow. Until it has begun they expire.
--
-- NEEDS: keys
-- USES: reads flow; writes flowparts
-- KEYS: 1 base key
-- ARGV: 1 the flow, 2 for how many ms they are kept if nobody begins it, then two per part: its number, its bytes
-- REPLY: 1
local has_begun = redis.call('EXISTS', Keys.flow(q, ARGV[1])) == 1
for i = 3, #ARGV, 2 do
  redis.call('HSET', Keys.flow_parts(q, ARGV[1]), ARGV[i], ARGV[i + 1])
  if i == 3 and not has_begun then redis.call('PEXPIRE', Keys.flow_parts(q, ARGV[1]), ARGV[2]) end
end
return 1
