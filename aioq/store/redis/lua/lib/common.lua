-- What all need but the shortest calls.
--
-- NEEDS: base
local GROUP = 'aioq'
local SCHEDULED, SCHEDULES = base .. ':scheduled', base .. ':schedules'
-- Beside WORKERS: when each worker last fetched, and for how long each takes its lease, in ms.
local FETCHED, LEASES = base .. ':fetched', base .. ':leases'
-- What the code of each worker declares of schedules: the worker, and their ids as a MessagePack array.
local OWNERS = base .. ':owners'
local function cancel_key(worker) return base .. ':cancel:' .. worker end

-- First served first; see lib/lanes.lua.
local LANES = {
  'high:front', 'high:rest', 'high', 'normal:front', 'normal:rest', 'normal', 'low:front', 'low:rest', 'low',
}

-- A record or a lane that is none, because somebody has put a key of another type in its place or its group is gone,
-- is passed over. Any other error, as of a command that is not permitted, ends the script, before it takes for gone
-- what is there.
local function is_unreadable(reply)
  if type(reply) ~= 'table' or not reply.err then return false end
  if string.find(reply.err, 'NOGROUP', 1, true) or string.find(reply.err, 'WRONGTYPE', 1, true) then return true end
  error(reply.err)
end

-- Passes over what `pcall` has caught, where that is of such a key.
local function pass_over(problem)
  is_unreadable({err = type(problem) == 'table' and problem.err or tostring(problem)})
end

-- A lease that has run out is lost once another worker has begun to recover it, not before: after an outage of
-- the server, when all have run out, each worker that is still there goes on. RECOVERING is the score of one
-- whose recovery has begun.
--
-- The register of the workers may have vanished, evicted or deleted by hand: then whoever still bears a name elsewhere was
-- not recovered, for that ends with the deletion of all that bears it. Such a worker goes on, and its next renewal enters
-- it anew; of those that are no more a sweep does, see renew.lua.
local RECOVERING = 0
local function is_known_elsewhere(worker)
  return redis.call('ZSCORE', FETCHED, worker) or redis.call('EXISTS', held_key(worker)) == 1
end
local function lease_lost(worker)
  local lease = redis.call('ZSCORE', WORKERS, worker)
  if lease then return tonumber(lease) == RECOVERING end
  return not is_known_elsewhere(worker)
end

-- Leases end by the server's clock. Where that has stepped back, what was written before ends as much later; whoever
-- lives renews its lease meanwhile, and of the others it would not end for as long as the step. So a lease that ends later
-- than any that its worker could take now is cut to the half of one, in which it is renewed twice. Looked at are those
-- that end more than `least` from now, so many of them at once: those that end last, and where none of those is to be
-- cut, for all take longer leases, others with each call. `usual` is the lease of a worker of which that is not known.
local CUT_AT_ONCE = 100
local function lease_of(worker, usual)
  local lease = redis.pcall('HGET', LEASES, worker)
  return tonumber(not is_unreadable(lease) and lease) or usual
end
local function cut_some(least, usual, skip)
  local far = redis.call('ZREVRANGEBYSCORE', WORKERS, '+inf', '(' .. now + least, 'WITHSCORES', 'LIMIT', skip, CUT_AT_ONCE)
  local cut = false
  for i = 1, #far, 2 do
    local lease = lease_of(far[i], usual)
    if tonumber(far[i + 1]) > now + lease then
      redis.call('ZADD', WORKERS, now + lease / 2, far[i])
      cut = true
    end
  end
  return #far < 2 * CUT_AT_ONCE or cut
end
local function cut_leases(least, usual)
  if cut_some(least, usual, 0) then return end
  local others = redis.call('ZCOUNT', WORKERS, '(' .. now + least, '+inf') - CUT_AT_ONCE
  if others > 0 then cut_some(least, usual, CUT_AT_ONCE + clock[2] % others) end
end

local function until_first(key)
  local head = redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')
  -- A schedule without a next tick, such as a paused one, is kept at infinity.
  if is_unreadable(head) or not head[1] or head[2] == 'inf' then return -1 end
  return math.max(0, head[2] - now)
end

-- The ms until the next scheduled job is due, and until the next tick of a schedule; -1 for none.
local function next_due() return {until_first(SCHEDULED), until_first(SCHEDULES)} end
