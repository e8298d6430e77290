-- Calls of debounced tasks: those of one key make a series, of which one job is there, with the last call. It is
-- due once there was no further call for a time, or when the series has lasted for so long. Its start, or any end,
-- ends the series; the next call begins a new one.
--
-- The job holds a unique key until its start. Of `extra.unique` (lib/unique.lua) these items are of use: 3
-- `debounce`, 4 for how many ms the series may last, 0 for no limit, 5 by when it must be over, 0 for no limit, 6
-- whether the job was begun, 7 for how many ms there must be no further call.
--
-- NEEDS: record, unique, successors
local Series = {}

function Series.is_one(lock) return lock and lock[3] == 'debounce' end

-- Begins a series with a job that has no record yet, or is run for the moment.
function Series.begin(q, id, lock)
  lock[5], lock[6] = lock[4] > 0 and q.now + lock[4] or 0, 0
  Unique.take(q, id, lock, true)
end

-- When the job of a series is due after a call that alone would be due at `due`.
function Series.due_in(lock, due) return lock[5] > 0 and math.min(due, lock[5]) or due end

-- Decides about a call: returns the job that has it now. That is `id`, which is to be added then, if there is no
-- series yet. `adding` are the jobs that the same call of this script is about to add.
function Series.place(q, id, new, adding)
  local lock = new.extra.unique
  local owner, job = Unique.owner(q, id, lock, adding)
  if owner and adding[owner] then
    new.due = Series.due_in(adding[owner].extra.unique, new.due or q.now)
    Successors.replace_new(adding[owner], new)
    return owner
  end
  local there = job and job[Field.EXTRA].unique
  if there and job[Field.STATE] == 'running' and Series.is_one(there) and there[6] == 0 then
    -- Its worker has just learned that it belongs to a series, and is about to put it off (unique_hold.lua).
    Successors.replace_call(q, owner, job, new)
  elseif there and job[Field.STATE] ~= 'running' and not Record.is_elsewhere(job) then
    new.due = Series.due_in(there, new.due or q.now)
    Successors.replace(q, owner, job, new)
  else
    Series.begin(q, id, lock)
    return id
  end
  return owner
end
