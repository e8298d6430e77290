-- The state of one call, and the handling of errors.
--
-- A script that fails half-way is not rolled back. A server that is out of memory refuses only a script's first
-- write, so that is harmless. But a key of another type, put there by hand, or a command that this user may not
-- call can stop a script anywhere. So everything by which a job is found again is written before its record says
-- that it exists. What that replaces is deleted afterwards, and entries are acknowledged last. A command that may
-- fail without harm is called last, and its error is ignored.
--
-- Nothing that a part defines may be changed: on a server with functions the definitions outlive the calls and
-- their errors. Everything that belongs to one call is in `q`, which each call makes for itself.
--
-- NEEDS: nothing

-- `q`: the queue's base key, the server's time in ms and in µs, and what the call gathers until its end. That is
-- the result messages (`messages`, by who waits, and `notified`; see lib/results.lua) and the number of jobs it
-- has buried (see lib/finish.lua).
local function begin(KEYS)
  local clock = redis.call('TIME')
  local seconds, micros = clock[1], clock[2]
  return {
    base = KEYS[1], now = seconds * 1000 + math.floor(micros / 1000), micros = seconds * 1000000 + micros,
    buried = 0,
  }
end

-- A function that returns what `make` makes, which nothing may change: made when it is first asked for, because
-- that takes time and most calls do not ask. A library makes it while it is loaded, once for all calls, which may
-- set nothing that outlives them; docs/design.md, "Commands are functions of the server if it has any".
local function once(make)
  local made = redis.register_function and make()
  return function()
    if not made then made = make() end
    return made
  end
end

-- Whether a reply is an error that is ignored: the key holds another type, or the lane's group is gone. Any other
-- error, such as for a command that is not permitted, ends the script: else it would take existing data for
-- deleted.
local function is_unreadable(reply)
  if type(reply) ~= 'table' or not reply.err then return false end
  if string.find(reply.err, 'NOGROUP', 1, true) then return true end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then return true end
  error(reply.err)
end

-- Ignores an error that `pcall` has caught if it is one of these; raises any other again.
local function pass_over(problem)
  is_unreadable({err = type(problem) == 'table' and problem.err or tostring(problem)})
end
