-- The times until the next scheduled job and the next tick.
--
-- NEEDS: call, keys
local Due = {}

function Due.until_first(q, key)
  local head = redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')
  -- A schedule without a next tick, such as a paused one, has the score infinity.
  if is_unreadable(head) or not head[1] or head[2] == 'inf' then return -1 end
  return math.max(0, head[2] - q.now)
end

-- The ms until the next scheduled job is due, and until the next tick of a schedule; -1 for none.
function Due.times(q)
  return {Due.until_first(q, q.base .. Keys.SCHEDULED), Due.until_first(q, q.base .. Keys.SCHEDULES)}
end
