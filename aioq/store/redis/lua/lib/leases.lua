-- Whether workers live, and until when they are taken to.
--
-- NEEDS: call, keys
local Leases = {}

-- A lease that has run out is lost once another worker has begun to recover it, not before: after an outage of
-- the server, when all have run out, each worker that is still there goes on. RECOVERING is the score of one
-- whose recovery has begun.
--
-- The register of the workers may have vanished, evicted or deleted by hand: then a worker that other keys still name was
-- not recovered, for that ends with the deletion of all these keys. Such a worker goes on, and its next renewal enters
-- it anew; of those that are no more a sweep does, see renew.lua.
local RECOVERING = 0
function Leases.is_known_elsewhere(q, worker)
  return redis.call('ZSCORE', q.base .. FETCHED, worker) or redis.call('EXISTS', held_key(q, worker)) == 1
end
function Leases.is_lost(q, worker)
  local lease = redis.call('ZSCORE', q.base .. WORKERS, worker)
  if lease then return tonumber(lease) == RECOVERING end
  return not Leases.is_known_elsewhere(q, worker)
end

-- Leases end by the server's clock. Where that has stepped back, what was written before ends as much later; a worker that
-- lives renews its lease meanwhile, and of the others it would not end for as long as the step. So a lease that ends later
-- than any that its worker could take now is cut to the half of one, in which it is renewed twice. Looked at are those
-- that end more than `least` from now, so many of them at once: those that end last, and where none of those is to be
-- cut, for all take longer leases, others with each call. `usual` is the lease of a worker of which that is not known.
local CUT_AT_ONCE = 100
function Leases.length_of(q, worker, usual)
  local lease = redis.pcall('HGET', q.base .. LEASES, worker)
  return tonumber(not is_unreadable(lease) and lease) or usual
end
function Leases.cut_some(q, least, usual, skip)
  local far = redis.call('ZREVRANGEBYSCORE', q.base .. WORKERS, '+inf', '(' .. q.now + least, 'WITHSCORES', 'LIMIT', skip, CUT_AT_ONCE)
  local cut = false
  for i = 1, #far, 2 do
    local lease = Leases.length_of(q, far[i], usual)
    if tonumber(far[i + 1]) > q.now + lease then
      redis.call('ZADD', q.base .. WORKERS, q.now + lease / 2, far[i])
      cut = true
    end
  end
  return #far < 2 * CUT_AT_ONCE or cut
end
function Leases.cut(q, least, usual)
  if Leases.cut_some(q, least, usual, 0) then return end
  local others = redis.call('ZCOUNT', q.base .. WORKERS, '(' .. q.now + least, '+inf') - CUT_AT_ONCE
  if others > 0 then Leases.cut_some(q, least, usual, CUT_AT_ONCE + q.micros % others) end
end
