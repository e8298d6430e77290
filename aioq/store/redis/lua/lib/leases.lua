-- The leases of workers: whether one is lost, and the shortening of those that would last too long.
--
-- NEEDS: call, keys
local Leases = {}
Leases.CUT_AT_ONCE = 100
-- What is added to the end of a lease that is marked; see `is_marked`.
Leases.MARK = 0.5
-- The end of the lease of a worker whose recovery has begun.
Leases.RECOVERING = 0

-- A lease that has run out is lost only when another worker has begun to recover its worker. So after an outage of
-- the server, when all leases have run out, every worker that is still alive goes on.
--
-- The set of workers may have been evicted or deleted by hand. A recovery ends by deleting all keys of its worker,
-- so a worker that other keys still name was not recovered: it goes on, and its next renewal adds it to the set
-- again. For workers that are dead, a sweep does that; see renew.lua.
function Leases.is_known_elsewhere(q, worker)
  return redis.call('ZSCORE', q.base .. Keys.FETCHED, worker) or redis.call('EXISTS', Keys.held(q, worker)) == 1
end
-- The second value is whether the lease is marked (below); the third, when it ends, if it is noted.
function Leases.is_lost(q, worker)
  local lease = tonumber(redis.call('ZSCORE', q.base .. Keys.WORKERS, worker) or nil)
  if lease then return lease == Leases.RECOVERING, Leases.is_marked(lease), lease end
  return not Leases.is_known_elsewhere(q, worker), true
end

-- A lease is marked if its worker has to look at what is paused (lib/pauses.lua) before it takes jobs: then its
-- end is no whole number. A lease that is written without knowing whether something is paused is marked.
function Leases.is_marked(lease) return lease % 1 ~= 0 end

-- Leases end by the server's clock. If the clock is set back, the leases that were written before would end later
-- by as much. A live worker renews its lease anyway, but that of a dead one would last too long. So a lease that
-- ends later than any that its worker could take now is cut to half of its usual length; a live worker renews it
-- twice in that time.
--
-- Only leases that end more than `least` ms from now are checked, CUT_AT_ONCE in a call: those that end last. If
-- none of them is to be cut, because their workers take longer leases, the call checks some others too, different
-- ones each time. `usual` is the length of a lease whose worker has not noted it.
function Leases.length_of(q, worker, usual)
  local lease = redis.pcall('HGET', q.base .. Keys.LEASES, worker)
  return tonumber(not is_unreadable(lease) and lease) or usual
end
function Leases.cut_some(q, least, usual, skip)
  local far = redis.call('ZREVRANGEBYSCORE', q.base .. Keys.WORKERS, '+inf', '(' .. q.now + least, 'WITHSCORES',
    'LIMIT', skip, Leases.CUT_AT_ONCE)
  local cut = false
  for i = 1, #far, 2 do
    local lease = Leases.length_of(q, far[i], usual)
    if tonumber(far[i + 1]) > q.now + lease then
      redis.call('ZADD', q.base .. Keys.WORKERS, q.now + math.floor(lease / 2) + far[i + 1] % 1, far[i])
      cut = true
    end
  end
  return #far < 2 * Leases.CUT_AT_ONCE or cut
end
function Leases.cut(q, least, usual)
  if Leases.cut_some(q, least, usual, 0) then return end
  local others = redis.call('ZCOUNT', q.base .. Keys.WORKERS, '(' .. q.now + least, '+inf') - Leases.CUT_AT_ONCE
  if others > 0 then Leases.cut_some(q, least, usual, Leases.CUT_AT_ONCE + q.micros % others) end
end
