-- Which workers' code declares schedules, of the workers that live. One whose lease has run out lives until another
-- worker begins to recover it.
--
-- NEEDS: base, common
local function ids_of(worker)
  local found = redis.pcall('HGET', OWNERS, worker)
  if is_unreadable(found) or not found then return nil end
  local done, ids = pcall(cmsgpack.unpack, found)
  return done and type(ids) == 'table' and ids or nil
end

-- For each schedule a worker that declares it; and a worker that has not said what it declares, '' for none.
local function owners()
  local owner, unsaid = {}, ''
  local workers = redis.call('ZRANGE', WORKERS, 0, -1, 'WITHSCORES')
  for i = 1, #workers, 2 do
    if tonumber(workers[i + 1]) ~= RECOVERING then
      local ids = ids_of(workers[i])
      if not ids then unsaid = workers[i] end
      for _, id in ipairs(ids or {}) do owner[id] = owner[id] or workers[i] end
    end
  end
  return owner, unsaid
end

