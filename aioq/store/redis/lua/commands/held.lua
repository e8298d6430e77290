-- Tells which jobs are noted as held by a worker, step by step: each call goes on where the one before has ended. What is
-- noted all the time is returned once at least.
--
-- NEEDS: call, keys
-- USES: reads held
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 where to go on (0 to begin), 3 about how many
-- REPLY: {where the next call goes on ('0' for nowhere), and the ids of the jobs}
local found = redis.pcall('SSCAN', held_key(q, ARGV[1]), ARGV[2], 'COUNT', ARGV[3])
if is_unreadable(found) then return {'0'} end
return {found[1], unpack(found[2])}
