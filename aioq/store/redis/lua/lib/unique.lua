-- Unique keys: which job holds a key, and which one is to follow it.
--
-- A key's value is the id of the job that holds it. After a line break comes the job that is run once that has
-- ended, if there is one (`latest`); it is `waiting` until then. A tab instead says that the key is held for a
-- time, after which it expires, and is given back by no job. No id has either.
--
-- The key is written before the record of its job, so a script that fails half-way leaves a key of no job. A
-- record may also vanish: evicted, or deleted by hand. So a key counts only if the job has a record, has not
-- ended, and has this key in its EXTRA; see `Lock` in aioq/store/extra.py. lib/hooks.lua says when jobs give their
-- keys back.
--
-- NEEDS: call, keys, record
local Unique = {}

-- The items of `extra.unique`: 1 the key, 2 until when it is held (`ended`, `started`, `within`), 3 what becomes
-- of a job whose key another one holds (`return`, `raise`, `replace`, `latest`; `debounce`, see lib/series.lua), 4
-- for how many ms it is held, 5 when the job is due that is to follow another one, 6 whether its present call
-- was begun by a worker, 1 or 0, 7 see lib/series.lua.

-- A job that was sent without its key and follows another one is not `waiting`: it is run now and then, and its
-- worker asks whether it may go on. Item 5 says so: -1, or -2 if it was given another call after it was claimed.
Unique.ASKS, Unique.ASKS_FOR_CALL = -1, -2
function Unique.asks(lock) return lock[5] < 0 end

-- The job that holds a key, the one that follows it, and whether the key is held for a time; nil for none.
function Unique.noted(q, key)
  local value = redis.pcall('GET', Keys.unique(q, key))
  if not value or is_unreadable(value) then return nil end
  local owner, mark, following = string.match(value, '^([^\n\t]*)([\n\t]?)(.*)$')
  return owner, mark == '\n' and following or nil, mark == '\t'
end

-- Notes who holds a key until it is given back.
function Unique.note(q, key, owner, following)
  redis.call('SET', Keys.unique(q, key), following and owner .. '\n' .. following or owner)
end

-- Whether a job holds a key, or follows the one that does; and its record, unless this version cannot read that.
function Unique.is_alive(q, key, id)
  local text = redis.pcall('GET', Keys.job(q, id))
  if not text or is_unreadable(text) then return false end
  local job = Record.unpacked(text)
  local lock = job and job[Field.EXTRA] and job[Field.EXTRA].unique
  return not job or lock and lock[1] == key and not Record.has_ended(job), job
end

-- The job that holds the key of a job, if that is another one. Returns its id; its record, unless it is one of
-- those that this call is `adding`, this version cannot read it, or it has ended and the key is held for a time;
-- the job that follows it; and whether the key is held for a time.
function Unique.owner(q, id, lock, adding)
  local owner, following, is_timed = Unique.noted(q, lock[1])
  if not owner or owner == id then return nil end
  if adding and adding[owner] then return owner, nil, following, is_timed end
  local alive, job = Unique.is_alive(q, lock[1], owner)
  if alive or is_timed then return owner, alive and job or nil, following, is_timed end
end

-- Whether a send with this lock would add no job, because the one that holds the key is there in its place.
function Unique.adds_none(q, id, lock, adding)
  local owner, job, following, is_timed = Unique.owner(q, id, lock, adding)
  if not owner then return false end
  if adding[owner] or not job then return true end
  local state, has = job[Field.STATE], job[Field.EXTRA].unique
  if lock[3] == 'debounce' then
    return not Record.is_elsewhere(job) and (state ~= 'running' or has[3] == 'debounce' and has[6] == 0)
  end
  if lock[3] ~= 'latest' or is_timed or (state ~= 'running' and state ~= 'moving') then return true end
  return following and (adding[following] or Unique.is_alive(q, lock[1], following)) and true or false
end

-- Lets a job hold its key, whoever had it before. A job that follows stays there. As long as the job has no record
-- (`is_new`) it does not hold the key for a time: if the script fails before it has one, the key is nobody's.
function Unique.take(q, id, lock, is_new)
  local owner, following, is_timed = Unique.noted(q, lock[1])
  if owner == id and is_timed then return end
  if lock[2] ~= 'within' or is_new then
    Unique.note(q, lock[1], id, following ~= id and following)
  else
    redis.call('SET', Keys.unique(q, lock[1]), id .. '\t', 'PX', lock[4])
  end
end

-- Lets a job hold the key that it has taken for a time from now on, if it is to: it has a record now.
function Unique.count_from_now(q, id, lock)
  if lock[2] ~= 'within' then return end
  local owner, _, is_timed = Unique.noted(q, lock[1])
  if owner == id and not is_timed then Unique.take(q, id, lock) end
end
