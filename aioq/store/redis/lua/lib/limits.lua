-- Limits: which jobs may run now, and which wait in a group until they may. See lib/groups.lua for groups,
-- lib/permits.lua for who holds one, and lib/limit_use.lua for what a job says of each limit that it is under.
--
-- A job asks for its permits in the order of its limits, and keeps what it has while it waits for the next one; a
-- rate is asked last, and gives it all back, because it may refuse for long.
--
-- NEEDS: call, keys, record_text_write, record, lanes, timers, groups, limit_use, limit_numbers, permits, buckets
local Limits = {}
-- After so many refusals by a rate, a job keeps its permits while it waits.
Limits.RESERVED_AFTER = 3

-- Sets the timer at which a group is looked at again; `at` is in µs. A claim's worker learns of it from the reply;
-- else one worker is woken, if it is the first timer.
function Limits.look_again(q, group, at)
  local head = not q.is_claim and redis.call('ZRANGE', q.base .. Keys.SCHEDULED, 0, 0, 'WITHSCORES')
  local due = math.ceil(at / 1000)
  Timer.set(q, Timer.GROUP, group, due)
  if head and (not head[1] or due < tonumber(head[2])) then Lanes.push(q, Keys.NORMAL, '', false) end
end

-- Whether the first job of a group has to wait for its rate; a timer is set then.
function Limits.waits_for_rate(q, group, numbers)
  local _, at, fitted = Buckets.ask(q, group, numbers, Limits.cost_of_first(q, group))
  if fitted then Buckets.charge(q, group, numbers, fitted) end
  if at then Limits.look_again(q, group, at) end
  return at ~= nil
end

-- What the first job of a group costs.
function Limits.cost_of_first(q, group)
  local first = redis.pcall('ZRANGE', Keys.group(q, group), 0, 0)
  local job = not is_unreadable(first) and first[1] and Record.load(q, first[1])
  for _, use in ipairs(job and Use.of(job) or {}) do
    if Use.group_of(use) == group then return use[Use.COST] end
  end
  return 1
end

-- Whether a job is the first of its group.
function Limits.is_first(q, id, group)
  local first = redis.pcall('ZRANGE', Keys.group(q, group), 0, 0)
  return not is_unreadable(first) and first[1] == id
end

-- Whether a timer will look at a group.
function Limits.is_looked_at(q, group)
  local at = redis.pcall('ZSCORE', q.base .. Keys.TIMERS, Timer.GROUP .. ' ' .. group)
  return at and not is_unreadable(at) and tonumber(at) > q.now
end

-- How many jobs of a group a claim may take now; at least 1 where only the job shows when its rate allows it.
function Limits.most(q, group, limit)
  local noted = Numbers.noted(q, limit)
  if not noted or not (noted[3] or noted[1]) then return 1 end
  local numbers = noted[3] or noted[1]
  local most = Permits.room(q, group, numbers, limit)
  if numbers[2] > 0 then
    local each, span = numbers[3] / numbers[2], math.ceil(numbers[4] * numbers[3] / numbers[2])
    local after = Buckets.ask(q, group, numbers, 1)
    local left = after and math.floor((span - (after - q.micros)) / each) + 1 or 1
    most = math.min(most, left)
  end
  return most
end

-- Forgets when a group was to be looked at, and reckons its bucket by these numbers: also if it has no room now,
-- for who makes room believes the timer.
function Limits.forget_timer(q, group, numbers)
  is_unreadable(redis.pcall('ZREM', q.base .. Keys.TIMERS, Timer.GROUP .. ' ' .. group))
  if numbers[2] == 0 then return end
  local full, differs = Buckets.full_at(q, group, numbers)
  if differs then Buckets.charge(q, group, numbers, full) end
end

-- Gives a group a token if one of its jobs may run, or notes that it waits. `use` is that of the job which has
-- just come to it as the first one, and `lane` its lane if it is alone. `is_changed`: the group has another first
-- job, or the limit has changed, so that its timer may be too late.
function Limits.wake(q, group, use, lane, is_changed)
  local first = (not use or not lane) and Groups.head(q, group)
  if first and not first[1] then return end
  local limit = Groups.limit_of(group)
  local numbers = Numbers.of_group(q, group, limit)
  if is_changed then Limits.forget_timer(q, group, numbers) end
  local is_stuck = Permits.room(q, group, numbers, limit) <= 0
  if not is_stuck and numbers[2] > 0 then
    if use then
      local _, at, fitted = Buckets.ask(q, group, numbers, use[Use.COST])
      if fitted then Buckets.charge(q, group, numbers, fitted) end
      if at then Limits.look_again(q, group, at) end
      is_stuck = at ~= nil
    elseif is_changed then
      is_stuck = Limits.waits_for_rate(q, group, numbers)
    else
      is_stuck = Limits.is_looked_at(q, group)
    end
  end
  -- Also until a claim has written the token.
  if is_stuck or q.is_claim then Groups.block(q, group) end
  if is_stuck then return end
  if not first then return Groups.give_token(q, group, lane) end
  Groups.offer(q, group, first)
  if not q.tokens then Groups.unblock(q, group) end
end

-- Takes a job out of a group, as `Groups.leave`. The next one may cost less, and so run earlier.
function Limits.leave(q, id, group)
  if not group then return end
  local was_first = Numbers.of_group(q, group)[2] > 0 and Limits.is_first(q, id, group)
  Groups.leave(q, id, group)
  if was_first then Limits.wake(q, group, nil, nil, true) end
end

-- Gives the permits of a job back; with `keeps_order` not those of an ordered limit. A settle gathers them.
function Limits.give_back(q, id, uses, keeps_order)
  for _, use in ipairs(uses) do
    if use[Use.NAME] ~= Use.FAIR and not (keeps_order and use[Use.ORDERED]) then
      local group, freed = Use.group_of(use), q.freed
      if not freed then
        Limits.remove_holders(q, group, {id}, use[Use.CONCURRENCY] > 0)
      elseif freed[group] then
        freed[group][#freed[group] + 1] = id
      else
        local n = #freed + 1
        freed[n], freed[group], freed[n + 1] = group, {id}, use[Use.CONCURRENCY] > 0
      end
    end
  end
end

-- Takes these holders from a group, whose next jobs may run then. `is_bound`: the limit has a concurrency.
function Limits.remove_holders(q, group, ids, is_bound)
  if q.given and q.given[group] then Permits.write_given(q) end
  local removed = redis.pcall('ZREM', Keys.holders(q, group), unpack(ids))
  local is_broken = is_unreadable(removed)
  if q.rooms then q.rooms[group] = nil end
  -- If nothing was removed, the call may be repeated; an operator may have let a rate count holders too.
  if not is_broken and (removed > 0 or is_bound) then Limits.wake(q, group) end
end

-- A settle gathers what its jobs give back in `q.freed`: groups, each with whether its limit has a concurrency;
-- and by group, the holders. So a group is looked at once, and tokens share entries.
function Limits.begin_settle(q) q.freed = {} end
function Limits.end_settle(q)
  local freed = q.freed
  q.freed = nil
  if not freed[1] then return end
  Groups.gather_tokens(q)
  for i = 1, #freed, 2 do
    local group, ids = freed[i], freed[freed[i]]
    local numbers = not ids[2] and Numbers.simple(q, Groups.limit_of(group))
    if numbers then
      Limits.free(q, group, ids[1], numbers)
    else
      Limits.remove_holders(q, group, ids, freed[i + 1])
    end
  end
  Groups.give_gathered(q)
end

-- Takes the only holder that a settle removes from a group of a simple limit. Where there is room, as usually, the
-- next job may run. Of a limit of one, that one was the only holder: if an operator has lowered it meanwhile, and
-- others still hold permits, the claim that meets the token sees it.
function Limits.free(q, group, id, numbers)
  local key = Keys.holders(q, group)
  local removed = redis.pcall('ZREM', key, id)
  if is_unreadable(removed) then return end
  local first = Groups.head(q, group)
  if not first[1] then return end
  local held = removed == 1 and numbers[1] == 1 and 0 or redis.pcall('ZCARD', key)
  if type(held) ~= 'number' or held >= numbers[1] then return Limits.wake(q, group) end
  Groups.offer(q, group, first)
end

-- Lets a job wait in a group; one that waits there keeps its place. The caller writes its record.
function Limits.wait(q, id, job, group, front)
  local before = Groups.of(job)
  job[Field.STATE], job[Field.WORKER] = 'waiting', false
  if before == group then return end
  Groups.join(q, id, job[Field.LANE] or nil, group, front)
  job[Field.EXTRA].waits = {group}
end

-- Lets a job wait in its first group: it was just sent, or is due. `extra` is what its record is to have.
function Limits.arrive(q, id, lane, extra, front)
  for _, use in ipairs(extra.limits) do Numbers.of(q, use) end
  local use = extra.limits[1]
  local group, numbers = Use.group_of(use), Numbers.of(q, use)
  local is_empty = Groups.join(q, id, lane, group, front)
  extra.waits = {group}
  -- Where others wait and there is a token, it serves this job too.
  if is_empty then
    Limits.wake(q, group, use, lane or Keys.NORMAL)
  elseif front or not Limits.was_woken(q, group, lane or Keys.NORMAL) then
    Limits.wake(q, group, numbers[2] > 0 and Limits.is_first(q, id, group) and use)
  end
end

-- Whether a group that has jobs has a token in a lane, or this call has looked already whether it may have one.
function Limits.was_woken(q, group, lane)
  local place = lane .. ' ' .. group
  if q.woken and q.woken[place] then return true end
  if q.woken then q.woken[place] = true end
  return Groups.has_token(q, group, lane)
end

-- An enqueue gathers what its jobs need that wait: their tokens, and their list.
function Limits.begin_arrivals(q) q.woken, q.waits, q.there, q.tokens, q.marks = {}, {}, {}, {}, {} end
function Limits.end_arrivals(q)
  local waits = q.waits
  q.woken, q.waits = nil, nil
  in_chunks(waits, function(...) redis.call('SADD', q.base .. Keys.WAITING, ...) end)
  Groups.give_gathered(q)
  q.there = nil
end

-- Whether a job that is due goes to its group: not if it has no limits, or has kept its permit to keep the order.
function Limits.goes_to_group(q, id, job)
  for _, use in ipairs(Use.of(job) or {}) do
    local key = Keys.holders(q, Use.group_of(use))
    if use[Use.ORDERED] and redis.call('ZSCORE', key, id) then return false end
  end
  return Use.of(job) and true or false
end

-- The place of the group in which a job waits among its limits; 0 for none.
function Limits.place(job)
  local waits = Groups.of(job)
  for i, use in ipairs(waits and Use.of(job) or {}) do
    if Use.group_of(use) == waits then return i end
  end
  return 0
end

-- Asks for the permits of a job at limits without a rate, in their order; returns whether it has them all. Else it
-- waits.
function Limits.ask_permits(q, id, job, front)
  local place = Limits.place(job)
  q.admitted = q.admitted or {}
  q.admitted[id] = true
  for i, use in ipairs(Use.of(job)) do
    local group, numbers = Use.group_of(use), Numbers.of(q, use)
    local is_asked = not Use.has_rate(use, numbers) and use[Use.NAME] ~= Use.FAIR
    -- It holds those before its place; for others this is asked only where there is no room.
    if is_asked and not (i < place and Permits.holds(q, group, id)) then
      local goes_first = front or i <= place
      local is_free = goes_first or redis.call('EXISTS', Keys.group(q, group)) == 0
      if is_free and Permits.room(q, group, numbers) > 0 then
        if numbers[1] > 0 then Permits.hold(q, group, id) end
      elseif not Permits.holds(q, group, id) then
        Limits.wait(q, id, job, group, goes_first)
        if is_free then Groups.block(q, group) end
        return false
      end
    end
  end
  return true
end

-- Asks the limits of a job that have a rate, which take all or nothing; returns whether they allow it. Else it
-- waits, without its permits if it was not refused too often.
function Limits.ask_rates(q, id, job, front)
  local uses, place, charges = Use.of(job), Limits.place(job), {}
  for i, use in ipairs(uses) do
    local group, numbers = Use.group_of(use), Numbers.of(q, use)
    if Use.has_rate(use, numbers) then
      local is_free = front or i == place or redis.call('EXISTS', Keys.group(q, group)) == 0
      local has_room = Permits.holds(q, group, id) or Permits.room(q, group, numbers) > 0
      local after, at, fitted = q.micros, nil, nil
      if numbers[2] > 0 then after, at, fitted = Buckets.ask(q, group, numbers, use[Use.COST]) end
      if not is_free or not has_room or not after then
        if i ~= place then use[Use.REFUSALS] = use[Use.REFUSALS] + 1 end
        Limits.wait(q, id, job, group, front or use[Use.REFUSALS] > 1)
        if fitted then Buckets.charge(q, group, numbers, fitted) end
        -- If others come first, it is for the first of them that a timer is set.
        if at and has_room and Limits.is_first(q, id, group) then Limits.look_again(q, group, at) end
        if is_free then Groups.block(q, group) end
        if use[Use.REFUSALS] < Limits.RESERVED_AFTER then Limits.give_back(q, id, uses, true) end
        return false
      end
      charges[#charges + 1] = {group, numbers, after}
    end
  end
  for _, charge in ipairs(charges) do
    local group, numbers, after = unpack(charge)
    if numbers[1] > 0 then Permits.hold(q, group, id) end
    if numbers[2] > 0 then Buckets.charge(q, group, numbers, after) end
  end
  for _, use in ipairs(uses) do use[Use.REFUSALS] = 0 end
  return true
end

-- Asks for all that a job needs which is about to be run. Returns true if it may. Else it waits in the group that
-- has refused it, and the caller writes its record. `front`: the job was given back, and goes before others.
function Limits.admit(q, id, job, front)
  return Limits.ask_permits(q, id, job, front) and Limits.ask_rates(q, id, job, front)
end

-- When the rate of a group lets the first of its jobs run, in ms; 0 for now, or if none waits.
function Limits.due(q, group)
  local numbers = Numbers.of_group(q, group)
  if numbers[2] == 0 or redis.call('EXISTS', Keys.group(q, group)) == 0 then return 0 end
  local _, at = Buckets.ask(q, group, numbers, Limits.cost_of_first(q, group))
  return at and math.ceil(at / 1000) or 0
end
