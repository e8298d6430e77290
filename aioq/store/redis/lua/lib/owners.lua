-- Which workers' code declares schedules, of the workers that live. One whose lease has run out lives until another
-- worker begins to recover it.
--
-- There may be thousands of workers with thousands of declarations, so they are read in several calls, and what no worker
-- declares is deleted in another one. Meanwhile a worker may come that declares it: NOTED shows that.
--
-- NEEDS: call, keys
local Owners = {}

-- When a worker has last noted what it declares, in microseconds; gone after NOTED_MS. Only those that declare something
-- which they had not noted before.
local NOTED_MS = 60 * 60 * 1000
function Owners.last_noted(q)
  local noted = redis.pcall('GET', q.base .. NOTED)
  return not is_unreadable(noted) and noted or ''
end

function Owners.ids_in(text)
  local done, ids = pcall(cmsgpack.unpack, text)
  return done and type(ids) == 'table' and ids or nil
end
function Owners.noted_by(q, worker)
  local found = redis.pcall('HGET', q.base .. OWNERS, worker)
  return not is_unreadable(found) and found or nil
end
