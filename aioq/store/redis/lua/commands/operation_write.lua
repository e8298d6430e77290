-- Stores a new bulk operation; called for the App. Of too many operations the oldest that have ended are deleted.
--
-- NEEDS: keys
-- USES: reads operation, operations; writes operation, operations
-- KEYS: 1 base key
-- ARGV: 1 its id, 2 what it is to do, which only the caller reads, 3 the most jobs a second (0 for no limit), 4
--   the most operations, 5 for how many ms after its last change an operation is kept
-- REPLY: 1; 0 if there are too many operations that have not ended. A repeated call changes nothing
local key, register, ttl = Keys.operation(q, ARGV[1]), q.base .. Keys.OPERATIONS, ARGV[5]
if redis.call('EXISTS', key) == 1 then return 1 end

-- The most operations that a call looks at to find some that have ended.
local LOOKED_AT = 200
local over = redis.call('ZCARD', register) - tonumber(ARGV[4]) + 1
for _, id in ipairs(over > 0 and redis.call('ZRANGE', register, 0, LOOKED_AT - 1) or {}) do
  local state = over > 0 and redis.call('HGET', Keys.operation(q, id), 'state')
  if over > 0 and state ~= 'running' and state ~= 'paused' then
    redis.call('DEL', Keys.operation(q, id))
    redis.call('ZREM', register, id)
    over = over - 1
  end
end
if over > 0 then return 0 end

local now = string.format('%.0f', q.now)
redis.call('HSET', key, 'definition', ARGV[2], 'rate', ARGV[3], 'state', 'running', 'at', 0,
  'began', now, 'paid', now)
redis.call('PEXPIRE', key, ttl)
redis.call('ZADD', register, now, ARGV[1])
redis.call('PEXPIRE', register, ttl)
return 1
