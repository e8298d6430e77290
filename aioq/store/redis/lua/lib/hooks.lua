-- The hooks of features: a hook is called when a job that uses the feature changes its state.
-- `aioq/store/memory/hooks.py` does the same in memory.
--
-- A hook is called before the record is written. It may be called twice for the same change, because a script that
-- fails half-way is repeated: calling it twice must have the same effect as once. It may change the job's EXTRA.
--
-- NEEDS: call, keys, record_text_write, record, timers, lanes, outbox, history, unique, groups, limits, batches
-- NEEDS: flows
local Hooks = {}

-- All hooks, in the order in which they are called, each with its key of EXTRA. Their functions:
--   enter(q, id, job, extra, due)       a job is new; it is due at `due`
--   start(q, id, job, extra)            a claim is about to take the job; returns false if it may not
--   back(q, id, job, extra, way, due)   it comes back to a lane, or is scheduled for `due`; `way` as in
--   store/extra.py
--   finish(q, id, job, extra, ttl, at)  it ends, however it ends; its record is kept for `ttl` ms, 0 for not at
--   all; `at` is its position among the jobs that a worker settles, nil if none does
--   ended(q, id, job, extra)            its record says that it has ended; not called if the script failed before
--   leave(q, id, job, extra)            it was moved to another queue, where `back` is called with the way `move`
--   left(q, id, job, extra)             it has arrived there
--   forget(q, id, job, extra, left)     its record is deleted earlier, in `left` ms; not called when it expires
--   reopen(q, id, job, extra)           a dead job is about to be queued again; returns false if it may not
Hooks.all = once(function()
  -- `extra.expires` is a list, as `Expiry` in aioq/store/extra.py.
  --   1 the time by which the job must have been started
  --   2 how long after it is due that is; 0 if the sender has given the time
  --   3 whether it cannot expire now
  --   4 whether it has been started
  local function count_from(q, id, expires, due)
    if expires[2] > 0 then expires[1] = math.max(due, q.now) + expires[2] end
    Timer.set(q, Timer.EXPIRE, id, expires[1])
  end
  local function stop(q, id)
    is_unreadable(redis.pcall('ZREM', q.base .. Keys.TIMERS, Timer.EXPIRE .. ' ' .. id))
  end
  local after_run = {
    retry = true, snooze = true, interrupt = true, cut = true, crash = true, recover = true, depart = true,
  }
  local holds_on = {
    release = true, park = true, promote = true, let_next = true, prioritize = true, reschedule = true,
  }
  return {
    {
      key = 'expires',
      enter = function(q, id, _, extra, due) count_from(q, id, extra.expires, due) end,
      start = function(q, id, _, extra)
        if Hooks.has_expired(q, id, extra) then return false end
        extra.expires[3] = true
      end,
      back = function(q, id, _, extra, way, due)
        local expires = extra.expires
        if way == 'release' or way == 'park' then
          if expires[4] then return end
          expires[3] = false
          Timer.set(q, Timer.EXPIRE, id, expires[1])
        elseif way == 'move' and not expires[3] then
          Timer.set(q, Timer.EXPIRE, id, expires[1])
        elseif way == 'reschedule' and not expires[3] then
          count_from(q, id, expires, due)
        elseif after_run[way] then
          expires[4] = true
        end
      end,
      ended = stop,
      leave = stop,
      -- A job that is queued again by hand never expires.
      reopen = function(_, _, _, extra) extra.expires[3], extra.expires[4] = true, true end,
    },
    {
      -- `extra.origins` is a list: 1 when the record may be deleted, 0 before the job's end; then the queues from
      -- which the job was moved here. Each has a record that leads here, and must be notified of the end. Until
      -- then the record stays, see `Finish.keep`.
      key = 'origins',
      finish = function(q, id, _, extra, ttl)
        extra.origins[1] = q.now + ttl
        for i = 2, #extra.origins do Outbox.add(q, extra.origins[i], 'ended', id) end
      end,
      forget = function(q, _, _, extra, left) extra.origins[1] = q.now + left end,
      reopen = function(_, _, _, extra) extra.origins[1] = 0 end,
    },
    {
      -- `extra.flow` is a list, see lib/flows.lua. The end of a node's job is work for its flow. Such a job is
      -- never queued again by itself: only the flow as a whole is run again.
      key = 'flow',
      finish = function(q, id, _, extra, _, at) Flows.note(q, id, extra.flow, at) end,
      ended = function(q, id, _, extra)
        if extra.flow[2] ~= Flows.OWN_RECORD then return end
        is_unreadable(redis.pcall('SREM', q.base .. Keys.WAITING, id))
      end,
      reopen = function() return false end,
    },
    {
      -- `extra.limits` is a list, see lib/limit_use.lua. A job that comes back to its lane holds nothing: the
      -- claim that meets it there asks for its permits, or lets it wait in its group.
      key = 'limits',
      back = function(q, id, _, extra, way)
        if way ~= 'return' then Limits.give_back(q, id, extra.limits, after_run[way] or holds_on[way]) end
      end,
      ended = function(q, id, job, extra)
        Limits.leave(q, id, Groups.of(job))
        Limits.give_back(q, id, extra.limits)
      end,
      leave = function(q, id, _, extra) Limits.give_back(q, id, extra.limits) end,
      reopen = function(_, _, _, extra) extra.waits = nil end,
    },
    {
      -- A job that waits for a batch is taken out of those that wait; see lib/batches.lua.
      key = 'batch',
      finish = function(q, id, job)
        q.waited = q.waited or {}
        if job[Field.STATE] == 'waiting' then q.waited[id] = true end
      end,
      ended = function(q, id, job)
        if q.waited and q.waited[id] then Batches.forget(q, Batches.name_of(job), {id}) end
      end,
    },
    {
      -- `extra.unique` is a list, see lib/unique.lua.
      key = 'unique',
      start = function(q, id, _, extra)
        if extra.unique[2] == 'started' then Hooks.give_back(q, id, extra.unique) end
        if extra.unique[3] == 'debounce' then extra.unique[6] = 1 end
      end,
      back = function(q, id, _, extra, way)
        local lock, began = extra.unique, after_run[way]
        local was_released = way == 'release' or way == 'park'
        if lock[3] == 'debounce' then
          -- Only if it has never begun: what comes after its start is of the next series.
          if was_released then lock[6] = 0 end
          if (was_released or way == 'move' or began) and lock[6] == 0 and not Unique.owner(q, id, lock) then
            Unique.take(q, id, lock)
          end
          return
        end
        if began then lock[6] = 1 end
        if way == 'move' and lock[2] ~= 'within' or lock[2] == 'started' and (began or was_released) then
          -- A job that was released has never begun: whoever came since has taken its place.
          if was_released or not Unique.owner(q, id, lock) then Unique.take(q, id, lock) end
        end
      end,
      -- Not before the record says so: if the script fails then, and the worker dies, the job is run again. A key
      -- that is not given back, because the script fails in between, is nobody's.
      ended = function(q, id, _, extra) Hooks.give_back(q, id, extra.unique) end,
      left = function(q, id, _, extra) Hooks.give_back(q, id, extra.unique) end,
      reopen = function(q, id, _, extra)
        extra.unique[6] = 0
        if extra.unique[2] == 'within' or extra.unique[3] == 'debounce' then return end
        if Unique.owner(q, id, extra.unique) then return false end
        Unique.take(q, id, extra.unique)
      end,
    },
  }
end)

-- Whether a job is not to be started any more. Its timer ends it; it is set again in case it is gone.
function Hooks.has_expired(q, id, extra)
  local expires = extra.expires
  if not expires or expires[3] or expires[1] > q.now then return false end
  Timer.set(q, Timer.EXPIRE, id, expires[1])
  return true
end

-- By the name of a change, the hooks that have a function for it, in their order: most have one for few changes.
Hooks.of_change = once(function()
  local changes = {'enter', 'start', 'back', 'finish', 'ended', 'leave', 'left', 'forget', 'reopen'}
  local all, found = Hooks.all(), {}
  for i = 1, #changes do -- while a library is loaded, there are no functions of Lua such as `ipairs`
    local name, having = changes[i], {}
    for j = 1, #all do
      if all[j][name] then having[#having + 1] = all[j] end
    end
    found[name] = having
  end
  return found
end)

-- Calls the hooks of a job for one change of its state; returns false if one of them did.
function Hooks.run(q, move, id, job, ...)
  local extra, agreed = job[Field.EXTRA], true
  if not extra then return true end
  for _, hook in ipairs(Hooks.of_change()[move]) do
    if extra[hook.key] and hook[move](q, id, job, extra, ...) == false then agreed = false end
  end
  return agreed
end

-- Gives a key back that a job holds; the job that follows it holds it then, and is queued.
function Hooks.give_back(q, id, lock)
  local owner, following, is_timed = Unique.noted(q, lock[1])
  if is_timed then return end
  if following == id then
    Unique.note(q, lock[1], owner)
    Hooks.stop_following(q, id)
  end
  if owner == id then Hooks.let_follow(q, lock[1], following) end
end

-- The same for jobs and the key of each.
function Hooks.give_back_all(q, ids, keys)
  for start = 1, #ids, CHUNK do
    local names, free = {}, {}
    for i = start, math.min(start + CHUNK - 1, #ids) do names[#names + 1] = Keys.unique(q, keys[i]) end
    for i, owner in ipairs(redis.call('MGET', unpack(names))) do
      local at = start + i - 1
      if owner == ids[at] then
        free[#free + 1] = names[i]
      elseif owner then
        Hooks.give_back(q, ids[at], {keys[at]})
      end
    end
    if free[1] then redis.call('DEL', unpack(free)) end
  end
end

-- Whether a job is run once this one has ended (`latest`).
function Hooks.is_followed(q, id, job)
  local lock = job[Field.EXTRA] and job[Field.EXTRA].unique
  if not lock or lock[3] ~= 'latest' then return false end
  local owner, following = Unique.noted(q, lock[1])
  return owner == id and following and Unique.is_alive(q, lock[1], following)
end

-- Lets a job hold a key that nobody holds any more, and queues it; without such a job the key is free. A claim
-- reads in `q.has_followed` that a lane has a job again.
function Hooks.let_follow(q, key, following)
  local alive, job = false, nil
  if following then alive, job = Unique.is_alive(q, key, following) end
  if not alive then
    redis.call('DEL', Keys.unique(q, key))
    return
  end
  Unique.note(q, key, following)
  -- A newer record stays as it is: a worker that can read it queues the job (promote.lua).
  if not job or job[Field.STATE] ~= 'waiting' then return end
  local due = job[Field.EXTRA].unique[5]
  local later = due > q.now
  Hooks.run(q, 'back', following, job, 'let_next', later and due or q.now)
  if later then
    Lanes.schedule(q, following, due, job[Field.LANE] or nil)
  else
    Lanes.push(q, job[Field.LANE], following, false)
    q.has_followed = true
    History.note_ready(q, job)
  end
  job[Field.STATE] = later and 'scheduled'
  Record.save(q, following, job)
  Hooks.stop_following(q, following)
end

-- Notes that a job follows another one: it is listed among those that wait, and looks whether that one is there.
function Hooks.follow(q, id)
  is_unreadable(redis.pcall('SADD', q.base .. Keys.WAITING, id))
  Timer.set(q, Timer.FOLLOW, id, q.now + Timer.FOLLOW_AFTER)
end

-- Forgets it: the job is let go, has ended or has vanished.
function Hooks.stop_following(q, id)
  is_unreadable(redis.pcall('SREM', q.base .. Keys.WAITING, id))
  is_unreadable(redis.pcall('ZREM', q.base .. Keys.TIMERS, Timer.FOLLOW .. ' ' .. id))
end

-- Calls the hooks of jobs that were delivered to a worker but not claimed by it.
function Hooks.run_returned(q, ids)
  for id, job in pairs(Record.load_all(q, ids)) do
    if job[Field.EXTRA] and not Record.has_ended(job) then
      Hooks.run(q, 'back', id, job, 'return', q.now)
      Record.save(q, id, job)
    end
  end
end
