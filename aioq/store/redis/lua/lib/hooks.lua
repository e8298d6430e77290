-- What features do at the moves of the jobs that use them; `aioq/store/memory/hooks.py` does the same in memory.
--
-- A hook is called before the record is written, and may be called again for the same move, because a script that fails
-- half-way is repeated: so what it does must be the same when it is done twice. It may change the job's EXTRA.
--
-- NEEDS: call, keys, record, timers

-- The hooks, in the order in which they are called, each with its key of EXTRA. What they are called for:
--   enter(q, id, job, extra, due)       a job is new, and due at that time
--   start(q, id, job, extra)            a claim is about to take it; false where it may not
--   back(q, id, job, extra, way, due)   it comes back to a lane, or waits for that time; see `Way` in aioq/store/extra.py
--   finish(q, id, job, extra, ttl)      it ends, in whichever way; its record is kept for so many ms, 0 for not at all
--   ended(q, id, job, extra)            its record says so now: what made it found may go; not where the script has failed
--   forget(q, id, job, extra, left)     its record goes sooner than that, in so many ms; where it expires no hook is called
--   reopen(q, id, job, extra)           a dead job is to be queued again
-- They are made when a call meets the first job that has any, for to define them takes time, and most calls meet none.
local function all_hooks()
  -- `extra.expires`: by when the job must have been started, how long after it is due that is (0 where it is a time of its
  -- own), whether it cannot expire now, because a worker has it or it has been started, and whether it has been.
  local function count_from(q, id, expires, due)
    if expires[2] > 0 then expires[1] = math.max(due, q.now) + expires[2] end
    set_timer(q, EXPIRE, id, expires[1])
  end
  local after_run = {retry = true, snooze = true, interrupt = true, cut = true, crash = true, recover = true, depart = true}
  return {
    {
      key = 'expires',
      enter = function(q, id, _, extra, due) count_from(q, id, extra.expires, due) end,
      start = function(q, id, _, extra)
        local expires = extra.expires
        if not expires[3] and expires[1] <= q.now then
          set_timer(q, EXPIRE, id, expires[1]) -- it may have vanished
          return false
        end
        expires[3] = true
      end,
      back = function(q, id, _, extra, way, due)
        local expires = extra.expires
        if way == 'release' or way == 'park' then
          if expires[4] then return end
          expires[3] = false
          set_timer(q, EXPIRE, id, expires[1])
        elseif way == 'reschedule' and not expires[3] then
          count_from(q, id, expires, due)
        elseif after_run[way] then
          expires[4] = true
        end
      end,
      ended = function(q, id) is_unreadable(redis.pcall('ZREM', q.base .. TIMERS, EXPIRE .. ' ' .. id)) end,
      -- A job that is reopened by hand does not expire any more.
      reopen = function(_, _, _, extra) extra.expires[3], extra.expires[4] = true, true end,
    },
  }
end

-- Calls the hooks of a job for one move; whether all agree.
local function run_hooks(q, move, id, job, ...)
  local extra, agreed = job[EXTRA], true
  if not extra then return true end
  q.hooks = q.hooks or all_hooks()
  for _, hook in ipairs(q.hooks) do
    if extra[hook.key] and hook[move] and hook[move](q, id, job, extra, ...) == false then agreed = false end
  end
  return agreed
end

-- Calls the hooks of jobs that come back from a worker that was sent them and never claimed them.
local function run_hooks_returned(q, ids)
  for id, job in pairs(load_all(q, ids)) do
    if job[EXTRA] and not has_ended(job) then
      run_hooks(q, 'back', id, job, 'return', q.now)
      save(q, id, job)
    end
  end
end
