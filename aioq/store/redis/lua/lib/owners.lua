-- The notes of what each live worker's code declares. A worker whose lease has run out counts as alive until
-- another worker begins to recover it.
--
-- There may be thousands of workers with thousands of declarations. So the notes are read in several calls, and a
-- schedule that no worker declares is deleted in a later call. If a worker notes a declaration meanwhile, NOTED
-- shows that.
--
-- NEEDS: call, keys
local Owners = {}

-- When a worker has last noted a declaration that it had not noted before and that is not empty, in microseconds.
-- It expires after NOTED_MS.
Owners.NOTED_MS = 60 * 60 * 1000
function Owners.last_noted(q)
  local noted = redis.pcall('GET', q.base .. Keys.NOTED)
  return not is_unreadable(noted) and noted or ''
end

function Owners.ids_in(text)
  local done, ids = pcall(cmsgpack.unpack, text)
  return done and type(ids) == 'table' and ids or nil
end
function Owners.noted_by(q, worker)
  local found = redis.pcall('HGET', q.base .. Keys.OWNERS, worker)
  return not is_unreadable(found) and found or nil
end
