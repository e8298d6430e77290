-- What becomes of a new job that may not run at once, where its limit says more than that it waits.
--
-- NEEDS: keys, record, groups, limit_use, limit_numbers, permits, buckets
local Conflicts = {}
-- How many holders are tried when one is to be cancelled.
Conflicts.TRIED = 100

-- Why a limit has ended a job, and the outcome; the same as `limit_outcome` in aioq/store/limits.py.
function Conflicts.reason(name) return "limit '" .. name .. "'" end
function Conflicts.outcome(name) return cmsgpack.pack({2, 2, '', Conflicts.reason(name)}) end

-- The first limit that lets a new job not run at once; nil for none.
function Conflicts.crowded(q, uses)
  for _, use in ipairs(uses) do
    local group, numbers = Use.group_of(use), Numbers.of(q, use)
    local length = redis.call('ZCARD', Keys.group(q, group))
    if numbers[1] > 0 then
      Permits.room(q, group, numbers) -- drops holders that are none
      if redis.call('ZCARD', Keys.holders(q, group)) + length >= numbers[1] then return use end
    end
    if numbers[2] > 0 and (length > 0 or not Buckets.ask(q, group, numbers, use[Use.COST])) then
      return use
    end
  end
end

-- The job that is to end so that another one may run: the oldest or the newest one that runs and is not being
-- cancelled; if none does, of those that wait. `chosen` are those that are to end already.
function Conflicts.victim(q, use, chosen)
  local group, is_oldest = Use.group_of(use), use[Use.ON_LIMIT] == 'cancel_oldest'
  local range = is_oldest and 'ZRANGE' or 'ZREVRANGE'
  for _, id in ipairs(redis.call(range, Keys.holders(q, group), 0, Conflicts.TRIED - 1)) do
    local job = not chosen[id] and Record.load(q, id)
    if job and job[Field.STATE] == 'running' and not job[Field.CANCEL] then return id end
  end
  local found, came = nil, nil
  for _, lane in ipairs(Groups.LANES) do
    local from, to = Groups.digits(Groups.RANK[lane] * Groups.SPAN), Groups.ENDS[lane]
    local command = is_oldest and 'ZRANGEBYSCORE' or 'ZREVRANGEBYSCORE'
    if not is_oldest then from, to = to, from end
    local first = redis.call(command, Keys.group(q, group), from, to, 'WITHSCORES', 'LIMIT', 0, 1)
    local at = first[1] and not chosen[first[1]] and first[2] % Groups.SPAN
    local is_next = at and (not found or is_oldest and at < came or not is_oldest and at > came)
    if is_next then found, came = first[1], at end
  end
  return found
end
