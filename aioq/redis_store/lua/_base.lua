-- Shared by every script: it stands before each of them when they are loaded, and before the parts that a script
-- names with NEEDS. What a call does not need costs it time to define, so there are parts.
--
-- A script that fails half-way is not rolled back. A server that is out of memory refuses a script's first write
-- only, so that harms nobody; but a key of another type, put there by hand, or a command that this user may not use
-- can stop a script anywhere. So what makes a job found again is written before its record says that it is there,
-- what it replaces is deleted afterwards, and entries are acknowledged last. What may fail without harm is called
-- last and its error passed over.
--
-- KEYS: 1 the queue's base key, aioq:{app:queue}; every other key of the queue starts with it, so that all of
--   them are in one cluster slot.
-- ARGV: each script's own.
-- REPLY: none of its own.
local base = KEYS[1]
local GROUP = 'aioq'
-- First served first; see _lanes.lua.
local LANES = {
  'high:front', 'high:rest', 'high', 'normal:front', 'normal:rest', 'normal', 'low:front', 'low:rest', 'low',
}
local SCHEDULED, WORKERS, FETCHED = base .. ':scheduled', base .. ':workers', base .. ':fetched'
-- The workers that wait for jobs, by when they began to, or by HANDED once they were handed one and have not said since
-- that they wait again. No lane has an entry that came after them: whatever is queued deletes the key, for what is handed
-- over must overtake nothing. See enqueue.lua.
local IDLE = base .. ':idle'
local HANDED = -1
local SCHEDULES = base .. ':schedules'

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function held_key(worker) return base .. ':held:' .. worker end
local function cancel_key(worker) return base .. ':cancel:' .. worker end

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
