-- Jobs that wait by their record and are in nothing: the group, the batch, the key or the timer in which they wait
-- may have been evicted or deleted by hand, or a group's token has got lost with its lane. A sweep looks at a few
-- jobs, chosen at random; if one of them was in nothing, many may be, so any worker looks at all of them then, in
-- steps.
--
-- NEEDS: call, keys, record, timers, groups, limits, unique, hooks, batches
local Waiting = {}

-- How many jobs a sweep looks at, and about how many a step.
Waiting.SWEPT, Waiting.STEP = 25, 200

-- Puts a job back into its group, with the place that it had: by when it could be run.
function Waiting.join_again(q, id, job, group)
  local ready = (job[Field.READY] or job[Field.SENT]) * 1000
  local rank = Groups.RANK[job[Field.LANE] or Keys.NORMAL]
  redis.call('ZADD', Keys.group(q, group), 'NX', Groups.digits(rank * Groups.SPAN + ready), id)
end

-- Whether something brings a group to a worker, once it may run a job: it is known as blocked, or has a token.
function Waiting.is_served(q, group, lane)
  local blocked = redis.pcall('SISMEMBER', Keys.blocked(q, Groups.limit_of(group)), Groups.key_of(group))
  if is_unreadable(blocked) or blocked == 1 then return true end
  local has_token = Groups.has_token(q, group, lane)
  return has_token or Limits.is_looked_at(q, group)
end

-- Looks after a job that waits in a group; returns whether something was wrong. `groups` are those that this call
-- has seen, by lane; true for those that are to be woken.
function Waiting.look_at_group(q, id, job, group, groups)
  local lane = job[Field.LANE] or Keys.NORMAL
  local seen, at = lane .. ' ' .. group, redis.pcall('ZSCORE', Keys.group(q, group), id)
  if is_unreadable(at) then return false end
  if not at then
    Waiting.join_again(q, id, job, group)
    groups[seen] = true
  elseif groups[seen] == nil then
    groups[seen] = not Waiting.is_served(q, group, lane)
  end
  return not at or groups[seen]
end

-- The same for a job that waits for a batch.
function Waiting.look_at_batch(q, id, job)
  local name = Batches.name_of(job)
  local at = redis.pcall('ZSCORE', Keys.batch(q, name), id)
  if is_unreadable(at) then return false end
  if at then
    Batches.time(q, name, Batches.due({id}, {[id] = job}))
  else
    Batches.queue(q, id, job, name)
  end
  return not at
end

-- The same for a job that follows another one. If the key was taken since by a job that nobody follows, it follows
-- that one; if somebody does, it waits until that one has the key.
function Waiting.look_at_follower(q, id, job)
  local key = job[Field.EXTRA].unique[1]
  local owner, following, is_timed = Unique.noted(q, key)
  if not owner or owner == id or is_timed or not Unique.is_alive(q, key, owner) then
    Hooks.let_follow(q, key, id)
    return true
  end
  if following ~= id and not (following and Unique.is_alive(q, key, following)) then
    Unique.note(q, key, owner, id)
  end
  local timed = redis.pcall('ZSCORE', q.base .. Keys.TIMERS, Timer.FOLLOW .. ' ' .. id)
  if not timed then Hooks.follow(q, id) end
  return following ~= id or not timed
end

function Waiting.look_at(q, id, job, groups)
  local extra = job[Field.EXTRA]
  local group = Groups.of(job)
  if job[Field.STATE] ~= 'waiting' or not extra then
    is_unreadable(redis.pcall('SREM', q.base .. Keys.WAITING, id))
    return false
  end
  if group then return Waiting.look_at_group(q, id, job, group, groups) end
  if extra.batch and not Batches.follows(q, id, extra.unique) then return Waiting.look_at_batch(q, id, job) end
  return extra.unique and Waiting.look_at_follower(q, id, job)
end

-- Looks at these jobs; returns whether one of them was in nothing.
function Waiting.look_at_all(q, ids)
  local texts, groups, found = texts_of(q, ids), {}, false
  for _, id in ipairs(ids) do
    local job = Record.unpacked(texts[id])
    if not texts[id] then
      is_unreadable(redis.pcall('SREM', q.base .. Keys.WAITING, id))
    elseif job then -- else it is of a newer version
      found = Waiting.look_at(q, id, job, groups) or found
    end
  end
  for seen, is_to_wake in pairs(groups) do
    if is_to_wake then Limits.wake(q, string.match(seen, '^%S+ (.*)$'), nil, nil, true) end
  end
  return found
end

function Waiting.sweep(q)
  local ids = redis.pcall('SRANDMEMBER', q.base .. Keys.WAITING, Waiting.SWEPT)
  if is_unreadable(ids) or not ids[1] then return end
  if Waiting.look_at_all(q, ids) then Timer.set(q, Timer.WAITING, '0', q.now) end
end

-- A step of the look at all jobs that wait; returns where the next one continues, '0' if nothing is left.
function Waiting.look_at_some(q, cursor)
  local found = redis.pcall('SSCAN', q.base .. Keys.WAITING, cursor, 'COUNT', Waiting.STEP)
  if is_unreadable(found) then return '0' end
  Waiting.look_at_all(q, found[2])
  return found[1]
end
