-- What one call is about, and how it may fail.
--
-- A script that fails half-way is not rolled back. A server that is out of memory refuses a script's first write
-- only, so that is harmless; but a key of another type, put there by hand, or a command that this user may not use
-- can stop a script anywhere. So what makes a job found again is written before its record says that it is there,
-- what it replaces is deleted afterwards, and entries are acknowledged last. What may fail without harm is called
-- last and its error passed over.
--
-- Nothing that a part defines is ever changed: it outlives the calls, and their errors, where the server has it as a
-- library of functions. What belongs to one call is in `q`, which is made anew for each.
--
-- NEEDS: nothing

-- `q`: the queue's base key, the server's time in ms and in µs, and what the call gathers until its end: result messages
-- (`messages`, by who waits; see lib/results.lua) and how many jobs it has buried (see lib/finish.lua).
local function begin(KEYS)
  local clock = redis.call('TIME')
  local seconds, micros = clock[1], clock[2]
  return {
    base = KEYS[1], now = seconds * 1000 + math.floor(micros / 1000), micros = seconds * 1000000 + micros, buried = 0,
  }
end

-- A malformed record or lane, because a key of another type was put in its place or its group is gone,
-- is passed over. Any other error, as of a command that is not permitted, ends the script, before it treats as deleted
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
