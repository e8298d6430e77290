-- What all need but the shortest calls.
--
-- NEEDS: base
local GROUP = 'aioq'
local SCHEDULED, SCHEDULES, FETCHED = base .. ':scheduled', base .. ':schedules', base .. ':fetched'
-- What the code of each worker declares of schedules: the worker, and their ids as a MessagePack array.
local OWNERS = base .. ':owners'
local function cancel_key(worker) return base .. ':cancel:' .. worker end

-- First served first; see _lanes.lua.
local LANES = {
  'high:front', 'high:rest', 'high', 'normal:front', 'normal:rest', 'normal', 'low:front', 'low:rest', 'low',
}

-- A lease that has run out is lost once another worker has begun to recover it, not before: after an outage of
-- the server, when all have run out, each worker that is still there goes on. RECOVERING is the score of one
-- whose recovery has begun.
local RECOVERING = 0
local function lease_lost(worker)
  local lease = redis.call('ZSCORE', WORKERS, worker)
  return not lease or tonumber(lease) == RECOVERING
end

-- A record or a lane that is none, because somebody has put a key of another type in its place or its group is gone,
-- is passed over. Any other error, as of a command that is not permitted, ends the script, before it takes for gone
-- what is there.
local function is_unreadable(reply)
  if type(reply) ~= 'table' or not reply.err then return false end
  if string.find(reply.err, 'NOGROUP', 1, true) or string.find(reply.err, 'WRONGTYPE', 1, true) then return true end
  error(reply.err)
end

local function until_first(key)
  local head = redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')
  -- A schedule without a next tick, such as a paused one, is kept at infinity.
  if is_unreadable(head) or not head[1] or head[2] == 'inf' then return -1 end
  return math.max(0, head[2] - now)
end

-- The ms until the next scheduled job is due, and until the next tick of a schedule; -1 for none.
local function next_due() return {until_first(SCHEDULED), until_first(SCHEDULES)} end
