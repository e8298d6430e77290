-- The numbers of limits that are in force, and pauses.
--
-- LIMITS has the numbers, by the limit's name: those of the code that has declared them last, or an operator's.
--
-- NEEDS: call, keys, lanes, timers, groups, limit_use, record_text_limited
local Numbers = {}
-- For how long the numbers are kept once no worker serves the queue, in ms: 30 days.
Numbers.KEPT = 2592000000

-- What is noted of a limit: 1 the declared numbers (concurrency, rate, per, burst), false for none, 2 when they
-- were declared, 3 those of an operator or false, 4 whether something of it may be paused. Nil if nothing is.
function Numbers.noted(q, name)
  q.limits = q.limits or {}
  local noted = q.limits[name]
  if noted == nil then
    local text = redis.pcall('HGET', q.base .. Keys.LIMITS, name)
    local readable, list = false, nil
    if text and not is_unreadable(text) then readable, list = pcall(cmsgpack.unpack, text) end
    noted = readable and type(list) == 'table' and list[1] ~= nil and list
    q.limits[name] = noted
  end
  return noted or nil
end
function Numbers.note(q, name, noted)
  q.limits[name], q.simple = noted, nil
  redis.call('HSET', q.base .. Keys.LIMITS, name, cmsgpack.pack(noted))
  redis.call('PEXPIRE', q.base .. Keys.LIMITS, Numbers.KEPT)
end

-- The numbers in force of a limit that a job is under. Numbers that were declared later than the noted ones take
-- their place; an operator's stay only if they came before any declaration.
function Numbers.of(q, use)
  if use[Use.NAME] == Use.FAIR then return {0, 0, 0, 0} end
  local noted = Numbers.noted(q, use[Use.NAME])
  local given = {use[Use.CONCURRENCY], use[Use.RATE], use[Use.PER], use[Use.BURST]}
  local is_new = not noted or not noted[1]
  local differs = is_new
  for i = 1, 4 do differs = differs or noted[1][i] ~= given[i] end
  if differs and (is_new or use[Use.DECLARED] > noted[2]) then
    noted = {given, use[Use.DECLARED], is_new and noted and noted[3] or false, noted and noted[4] or false}
    Numbers.note(q, use[Use.NAME], noted)
    if not is_new then Numbers.look_at_all(q, use[Use.NAME]) end
  end
  return noted[3] or noted[1]
end

-- The same of a group, as far as they are noted. `limit` is that of the group, if it is known.
function Numbers.of_group(q, group, limit)
  local name = limit or Groups.limit_of(group)
  local noted = name ~= Use.FAIR and Numbers.noted(q, name)
  return noted and (noted[3] or noted[1]) or {0, 0, 0, 0}
end

-- The uses in packed limits; nil if these are none. Of most jobs it is one, whose numbers are those of other jobs
-- in this call, so these are read once; it has its name, key and concurrency only then.
function Numbers.uses_in(q, limits)
  local name, key, at, name_end, key_end = LimitText.one_use(limits)
  local rest = name and string.sub(limits, at)
  q.concurrency = q.concurrency or {}
  local concurrency = q.concurrency[rest]
  if concurrency then
    return {{string.sub(limits, name, name_end), string.sub(limits, key, key_end), concurrency}}
  end
  local uses = LimitText.uses(limits)
  if uses and rest then q.concurrency[rest] = uses[1][Use.CONCURRENCY] end
  return uses
end

-- What `lone_numbers` keeps of a limit.
function Numbers.lone_of(q, limit)
  q.lone[limit] = q.lone[limit] or {}
  return q.lone[limit]
end

-- For packed limits of a job in a group, if they are one use without a rate: the numbers in force. False for any
-- others. `known` keeps them, for the jobs of this limit.
function Numbers.lone_numbers(q, limits, known)
  local name, _, at = LimitText.one_use(limits)
  local rest = name and string.sub(limits, at)
  if not name or known[rest] ~= nil then return known[rest] end
  local uses = LimitText.uses(limits)
  local numbers = uses and uses[1][Use.NAME] ~= Use.FAIR and Numbers.of(q, uses[1])
  known[rest] = numbers and not Use.has_rate(uses[1], numbers) and numbers or false
  return known[rest]
end

-- Until when a group is paused, 0 until it is resumed; nil if it is not. `limit` as above.
function Numbers.paused_until(q, group, limit)
  local name = limit or Groups.limit_of(group)
  local noted = name ~= Use.FAIR and Numbers.noted(q, name)
  if not noted or not noted[4] then return nil end
  local found, last = redis.pcall('HMGET', q.base .. Keys.HALTED, name, group), nil
  for _, at in ipairs(is_unreadable(found) and {} or found) do
    at = tonumber(at or nil)
    if at == 0 then return 0 end
    if at and at > q.now then last = math.max(last or at, at) end
  end
  return last
end

-- The numbers in force of a limit that has a concurrency and no rate, and of which nothing is paused; false for
-- any other. Most limits are such, and what many groups of one need is asked with few calls.
function Numbers.simple(q, limit)
  q.simple = q.simple or {}
  local found = q.simple[limit]
  if found == nil then
    local noted = limit ~= Use.FAIR and Numbers.noted(q, limit)
    local numbers = noted and not noted[4] and (noted[3] or noted[1])
    found = numbers and numbers[1] > 0 and numbers[2] == 0 and numbers or false
    q.simple[limit] = found
  end
  return found
end

-- Has any worker look at all groups of a limit that wait: its numbers have changed.
function Numbers.look_at_all(q, name, at)
  if q.is_claim then q.rooms, q.lone = {}, {} end
  local head = not q.is_claim and redis.call('ZRANGE', q.base .. Keys.SCHEDULED, 0, 0, 'WITHSCORES')
  Timer.set(q, Timer.LIMIT, '0 ' .. name, at or q.now)
  if head and (not head[1] or (at or q.now) < tonumber(head[2])) then Lanes.push(q, Keys.NORMAL, '', false) end
end
