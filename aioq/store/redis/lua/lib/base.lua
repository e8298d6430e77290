-- Shared by every script. The parts that a script names with NEEDS are put in that place when it is loaded; a second
-- such line stands where the most frequent calls have returned. What a call does not need costs it time to define: for a
-- lone job that was most of the server's time.
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
local WORKERS = base .. ':workers'
-- The workers that wait for jobs, by when they began to, or by HANDED once they were handed one and have not said since
-- that they wait again. No lane has an entry that came after them: whatever is queued deletes the key, for what is
-- handed over must overtake nothing. See enqueue_one.lua.
local IDLE = base .. ':idle'
local HANDED = -1

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function held_key(worker) return base .. ':held:' .. worker end
