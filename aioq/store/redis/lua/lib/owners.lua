-- Which workers' code declares schedules, of the workers that live. One whose lease has run out lives until another
-- worker begins to recover it.
--
-- There may be thousands of workers with thousands of declarations, so they are looked at in several calls, and what nobody
-- declares is deleted in another one. In between a worker may come that declares it: that is told by STOOD.
--
-- NEEDS: base, common
-- When a worker has last noted what it declares, in microseconds; gone after STOOD_MS. Only those that declare something
-- which they had not noted before.
local STOOD = base .. ':stood'
local STOOD_MS = 60 * 60 * 1000
local function last_stand()
  local stood = redis.pcall('GET', STOOD)
  return not is_unreadable(stood) and stood or ''
end

local function ids_in(text)
  local done, ids = pcall(cmsgpack.unpack, text)
  return done and type(ids) == 'table' and ids or nil
end
local function noted_by(worker)
  local found = redis.pcall('HGET', OWNERS, worker)
  return not is_unreadable(found) and found or nil
end
