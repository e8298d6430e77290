-- Limits: which jobs may run now, and which wait in a group until they may. See lib/groups.lua for groups, and
-- `LimitUse` in aioq/store/extra.py for what a job says of each limit that it is under.
--
-- A job that runs is a holder of each of its groups with a concurrency: HOLDERS has its id, by when it got there.
-- There is no counter. A job asks for its permits in the order of its limits, and keeps what it has while it waits
-- for the next one; a rate is asked last, and gives it all back, because it may refuse for long. A holder without
-- a record, or whose record says that it holds nothing, is nobody: so a script that failed half-way, or an
-- eviction, takes no permit away for good. Such holders are looked for where a group is full.
--
-- LIMITS has the numbers in force, by the limit's name: those of the code that has declared them last, or an
-- operator's.
--
-- NEEDS: call, keys, record_text_write, record_text_limited, record, lanes, timers, groups
local Limits = {}

-- The items of `extra.limits`, each of which is a list.
Limits.NAME, Limits.KEY, Limits.CONCURRENCY, Limits.RATE, Limits.PER, Limits.BURST = 1, 2, 3, 4, 5, 6
Limits.COST, Limits.ON_LIMIT, Limits.ORDERED, Limits.DECLARED, Limits.WEIGHT, Limits.REFUSALS = 7, 8, 9, 10, 11, 12
-- The name in it of what is no limit: the groups of such jobs are served in turn.
Limits.FAIR = '~fair'
-- How many of the holders of a full group are looked up: those that have held their permits the longest; a sweep
-- looks up any, for jobs that run for days may come before one that is gone.
Limits.LOOKED_UP = 2
-- After so many refusals by a rate, a job keeps its permits while it waits.
Limits.RESERVED_AFTER = 3
Limits.NO_BOUND = 1000000000
-- How many holders are tried when one is to be cancelled, and how many groups a step looks at.
Limits.TRIED, Limits.LOOKED_AT = 100, 100
-- For how long the numbers are kept once no worker serves the queue, in ms: 30 days.
Limits.KEPT = 2592000000
-- How many limits, groups of each, and tokens a sweep looks at.
Limits.SWEPT = 10

function Limits.group_of(use) return use[Limits.NAME] .. ':' .. use[Limits.KEY] end
function Limits.of(job) return job[Field.EXTRA] and job[Field.EXTRA].limits end

-- What is noted of a limit: 1 the declared numbers (concurrency, rate, per, burst), false for none, 2 when they
-- were declared, 3 those of an operator or false, 4 whether something of it may be paused. Nil if nothing is.
function Limits.noted(q, name)
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

function Limits.note(q, name, noted)
  q.limits[name], q.simple = noted, nil
  redis.call('HSET', q.base .. Keys.LIMITS, name, cmsgpack.pack(noted))
  redis.call('PEXPIRE', q.base .. Keys.LIMITS, Limits.KEPT)
end

-- The numbers in force of a limit that a job is under. Numbers that were declared later than the noted ones take
-- their place; an operator's stay only if they came before any declaration.
function Limits.numbers(q, use)
  if use[Limits.NAME] == Limits.FAIR then return {0, 0, 0, 0} end
  local noted = Limits.noted(q, use[Limits.NAME])
  local given = {use[Limits.CONCURRENCY], use[Limits.RATE], use[Limits.PER], use[Limits.BURST]}
  local is_new = not noted or not noted[1]
  local differs = is_new
  for i = 1, 4 do differs = differs or noted[1][i] ~= given[i] end
  if differs and (is_new or use[Limits.DECLARED] > noted[2]) then
    noted = {given, use[Limits.DECLARED], is_new and noted and noted[3] or false, noted and noted[4] or false}
    Limits.note(q, use[Limits.NAME], noted)
    if not is_new then Limits.look_at_all(q, use[Limits.NAME]) end
  end
  return noted[3] or noted[1]
end

-- The same of a group, as far as they are noted. `limit` is that of the group, if it is known.
function Limits.numbers_of(q, group, limit)
  local name = limit or Groups.limit_of(group)
  local noted = name ~= Limits.FAIR and Limits.noted(q, name)
  return noted and (noted[3] or noted[1]) or {0, 0, 0, 0}
end

-- The uses in packed limits; nil if these are none. Of most jobs it is one, whose numbers are those of other jobs
-- in this call, so these are read once; it has its name, key and concurrency only then.
function Limits.uses_in(q, limits)
  local name, key, at, name_end, key_end = LimitText.one_use(limits)
  local rest = name and string.sub(limits, at)
  q.concurrency = q.concurrency or {}
  local concurrency = q.concurrency[rest]
  if concurrency then
    return {{string.sub(limits, name, name_end), string.sub(limits, key, key_end), concurrency}}
  end
  local uses = LimitText.uses(limits)
  if uses and rest then q.concurrency[rest] = uses[1][Limits.CONCURRENCY] end
  return uses
end

-- What `lone_numbers` keeps of a limit.
function Limits.lone_of(q, limit)
  q.lone[limit] = q.lone[limit] or {}
  return q.lone[limit]
end

-- For packed limits of a job in a group, if they are one use without a rate: the numbers in force. False for any
-- others. `known` keeps them, for the jobs of this limit.
function Limits.lone_numbers(q, limits, known)
  local name, _, at = LimitText.one_use(limits)
  local rest = name and string.sub(limits, at)
  if not name or known[rest] ~= nil then return known[rest] end
  local uses = LimitText.uses(limits)
  local numbers = uses and uses[1][Limits.NAME] ~= Limits.FAIR and Limits.numbers(q, uses[1])
  known[rest] = numbers and not Limits.has_rate(uses[1], numbers) and numbers or false
  return known[rest]
end

-- Whether a limit has a rate for a job: code has declared one, or an operator has put it.
function Limits.has_rate(use, numbers) return use[Limits.RATE] > 0 or numbers[2] > 0 end

-- Until when a group is paused, 0 until it is resumed; nil if it is not. `limit` as above.
function Limits.paused_until(q, group, limit)
  local name = limit or Groups.limit_of(group)
  local noted = name ~= Limits.FAIR and Limits.noted(q, name)
  if not noted or not noted[4] then return nil end
  local found, last = redis.pcall('HMGET', q.base .. Keys.HALTED, name, group), nil
  for _, at in ipairs(is_unreadable(found) and {} or found) do
    at = tonumber(at or nil)
    if at == 0 then return 0 end
    if at and at > q.now then last = math.max(last or at, at) end
  end
  return last
end

-- Whether a job holds a permit of a group, by its record.
function Limits.is_holder(job, group)
  for _, use in ipairs(Limits.of(job) or {}) do
    if Limits.group_of(use) == group then
      local waits = Groups.of(job)
      if Record.has_ended(job) or Record.is_elsewhere(job) then return false end
      -- One that waits in this group itself has none, whatever a claim has left that failed half-way.
      return job[Field.STATE] == 'running' or waits ~= group and (waits ~= nil or use[Limits.ORDERED])
    end
  end
  return false
end

-- Takes the permits back of holders that are none; returns how many these were. The records of those to which this
-- call has given permits do not say so yet (`q.admitted`).
function Limits.drop_strays(q, group)
  local key, dropped = Keys.holders(q, group), 0
  local ids = q.is_sweep and redis.call('ZRANDMEMBER', key, Limits.LOOKED_UP)
    or redis.call('ZRANGE', key, 0, Limits.LOOKED_UP - 1)
  for _, id in ipairs(ids) do
    local is_new = q.admitted and q.admitted[id]
    local text = not is_new and redis.pcall('GET', Keys.job(q, id))
    local job = text and not is_unreadable(text) and Record.unpacked(text)
    local is_unknown = text and not job -- this version cannot read it, so it may hold a permit
    if not is_new and not is_unknown and not (job and Limits.is_holder(job, group)) then
      redis.call('ZREM', key, id)
      dropped = dropped + 1
    end
  end
  return dropped
end

-- How many more jobs of a group may run at once, without its rate. A claim asks the server once (`q.rooms`).
function Limits.room(q, group, numbers, limit)
  local room = q.rooms and q.rooms[group]
  if room then return room end
  room = Limits.ask_room(q, group, numbers, limit)
  if q.rooms then q.rooms[group] = room end
  return room
end
function Limits.ask_room(q, group, numbers, limit)
  local paused = Limits.paused_until(q, group, limit)
  if paused and paused > 0 then Timer.set(q, Timer.GROUP, group, paused) end
  if paused then return 0 end
  if numbers[1] == 0 then return Limits.NO_BOUND end
  local held = redis.pcall('ZCARD', Keys.holders(q, group))
  if is_unreadable(held) then return 0 end
  local room = numbers[1] - held
  return room > 0 and room or room + Limits.drop_strays(q, group)
end

-- The numbers in force of a limit that has a concurrency and no rate, and of which nothing is paused; false for
-- any other. Most limits are such, and what many groups of one need is asked with few calls.
function Limits.simple(q, limit)
  q.simple = q.simple or {}
  local found = q.simple[limit]
  if found == nil then
    local noted = limit ~= Limits.FAIR and Limits.noted(q, limit)
    local numbers = noted and not noted[4] and (noted[3] or noted[1])
    found = numbers and numbers[1] > 0 and numbers[2] == 0 and numbers or false
    q.simple[limit] = found
  end
  return found
end

-- The room of a group of such a limit in a claim.
function Limits.simple_room(q, group, numbers)
  local room = q.rooms[group]
  if room then return room end
  local held = redis.pcall('ZCARD', Keys.holders(q, group))
  if type(held) ~= 'number' or held >= numbers[1] then return Limits.room(q, group, numbers) end
  q.rooms[group] = numbers[1] - held
  return numbers[1] - held
end

-- A claim gathers the permits that it gives in `q.given`, by group, and writes them before the records.
function Limits.begin_claim(q)
  q.rooms, q.given, q.joined, q.admitted, q.lone, q.is_claim = {}, {}, {}, {}, {}, true
  Groups.gather_tokens(q)
end

-- Whether a job is a holder of a group.
function Limits.holds(q, group, id)
  if q.given and q.given[group] then Limits.write_given(q) end
  return redis.call('ZSCORE', Keys.holders(q, group), id) and true or false
end

-- Makes a job a holder of a group.
function Limits.hold(q, group, id)
  if not q.given then
    redis.call('ZADD', Keys.holders(q, group), 'NX', q.now, id)
    return
  end
  q.given[group] = q.given[group] or {}
  q.now_text = q.now_text or Groups.digits(q.now)
  local n = #q.given[group]
  q.given[group][n + 1], q.given[group][n + 2] = q.now_text, id
  q.rooms[group] = q.rooms[group] and q.rooms[group] - 1
end
function Limits.write_given(q)
  for group, given in pairs(q.given) do
    local added, key = 0, Keys.holders(q, group)
    if given[3] then
      in_chunks(given, function(...) added = added + redis.call('ZADD', key, 'NX', ...) end)
    else
      added = redis.call('ZADD', key, 'NX', given[1], given[2])
    end
    if added < #given / 2 then q.rooms[group] = nil end -- one that held a permit takes no room
  end
  q.given = {}
end

-- The generic cell rate algorithm: a group's bucket is one number, when it will be full again, in µs. It is kept
-- until then. A job takes its cost times the time in which one permit comes; the bucket is empty if it would be
-- full only after `span`. See https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm, "virtual scheduling".
-- Beside it stands the time in which one permit comes: if that has changed, the bucket lacks as many as before.
--
-- Returns when the bucket will be full: after `span` at the latest, also if the server's clock was ahead. And
-- whether something else is noted: it is to be noted anew then, or no token comes until that time.
function Limits.full_at(q, group, numbers)
  local each, span = numbers[3] / numbers[2], math.ceil(numbers[4] * numbers[3] / numbers[2])
  local noted = redis.pcall('GET', Keys.bucket(q, group))
  local full, before = string.match(not is_unreadable(noted) and noted or '', '^(%d+) ?(%S*)$')
  local missing = math.max((tonumber(full or nil) or 0) - q.micros, 0)
  before = tonumber(before or nil) or each
  local found = before == each and missing or math.ceil(missing / before * each)
  found = math.min(found, span)
  return q.micros + found, missing > 0 and (before ~= each or found ~= missing)
end

-- Returns when the bucket will be full again once it has given this cost; or nil, when it can, and what is to be
-- noted instead of what is there, if that is not right.
function Limits.ask_bucket(q, group, numbers, cost)
  local rate, per, burst = numbers[2], numbers[3], numbers[4]
  local span = math.ceil(burst * per / rate)
  local taken = math.min(math.ceil(cost * per / rate), span)
  local full, differs = Limits.full_at(q, group, numbers)
  local after = full + taken
  if after - q.micros <= span then return after end
  return nil, after - span, differs and full or nil
end
function Limits.charge(q, group, numbers, after)
  local text = Groups.digits(after) .. ' ' .. string.format('%.17g', numbers[3] / numbers[2])
  redis.call('SET', Keys.bucket(q, group), text, 'PX', math.ceil((after - q.micros) / 1000))
end

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
  local _, at, fitted = Limits.ask_bucket(q, group, numbers, Limits.cost_of_first(q, group))
  if fitted then Limits.charge(q, group, numbers, fitted) end
  if at then Limits.look_again(q, group, at) end
  return at ~= nil
end

-- What the first job of a group costs.
function Limits.cost_of_first(q, group)
  local first = redis.pcall('ZRANGE', Keys.group(q, group), 0, 0)
  local job = not is_unreadable(first) and first[1] and Record.load(q, first[1])
  for _, use in ipairs(job and Limits.of(job) or {}) do
    if Limits.group_of(use) == group then return use[Limits.COST] end
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
  local noted = Limits.noted(q, limit)
  if not noted or not (noted[3] or noted[1]) then return 1 end
  local numbers = noted[3] or noted[1]
  local most = Limits.room(q, group, numbers, limit)
  if numbers[2] > 0 then
    local each, span = numbers[3] / numbers[2], math.ceil(numbers[4] * numbers[3] / numbers[2])
    local after = Limits.ask_bucket(q, group, numbers, 1)
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
  local full, differs = Limits.full_at(q, group, numbers)
  if differs then Limits.charge(q, group, numbers, full) end
end

-- Gives a group a token if one of its jobs may run, or notes that it waits. `use` is that of the job which has
-- just come to it as the first one, and `lane` its lane if it is alone. `is_changed`: the group has another first
-- job, or the limit has changed, so that its timer may be too late.
function Limits.wake(q, group, use, lane, is_changed)
  local first = (not use or not lane) and Groups.head(q, group)
  if first and not first[1] then return end
  local limit = Groups.limit_of(group)
  local numbers = Limits.numbers_of(q, group, limit)
  if is_changed then Limits.forget_timer(q, group, numbers) end
  local is_stuck = Limits.room(q, group, numbers, limit) <= 0
  if not is_stuck and numbers[2] > 0 then
    if use then
      local _, at, fitted = Limits.ask_bucket(q, group, numbers, use[Limits.COST])
      if fitted then Limits.charge(q, group, numbers, fitted) end
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
  local was_first = Limits.numbers_of(q, group)[2] > 0 and Limits.is_first(q, id, group)
  Groups.leave(q, id, group)
  if was_first then Limits.wake(q, group, nil, nil, true) end
end

-- Gives the permits of a job back; with `keeps_order` not those of an ordered limit. A settle gathers them.
function Limits.give_back(q, id, uses, keeps_order)
  for _, use in ipairs(uses) do
    if use[Limits.NAME] ~= Limits.FAIR and not (keeps_order and use[Limits.ORDERED]) then
      local group, freed = Limits.group_of(use), q.freed
      if not freed then
        Limits.remove_holders(q, group, {id}, use[Limits.CONCURRENCY] > 0)
      elseif freed[group] then
        freed[group][#freed[group] + 1] = id
      else
        local n = #freed + 1
        freed[n], freed[group], freed[n + 1] = group, {id}, use[Limits.CONCURRENCY] > 0
      end
    end
  end
end

-- Takes these holders from a group, whose next jobs may run then. `is_bound`: the limit has a concurrency.
function Limits.remove_holders(q, group, ids, is_bound)
  if q.given and q.given[group] then Limits.write_given(q) end
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
    local numbers = not ids[2] and Limits.simple(q, Groups.limit_of(group))
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
  for _, use in ipairs(extra.limits) do Limits.numbers(q, use) end
  local use = extra.limits[1]
  local group, numbers = Limits.group_of(use), Limits.numbers(q, use)
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
  for _, use in ipairs(Limits.of(job) or {}) do
    local key = Keys.holders(q, Limits.group_of(use))
    if use[Limits.ORDERED] and redis.call('ZSCORE', key, id) then return false end
  end
  return Limits.of(job) and true or false
end

-- Why a limit has ended a job, and the outcome; the same as `limit_outcome` in aioq/store/limits.py.
function Limits.reason(name) return "limit '" .. name .. "'" end
function Limits.outcome(name) return cmsgpack.pack({2, 2, '', Limits.reason(name)}) end

-- The first limit that lets a new job not run at once; nil for none.
function Limits.crowded(q, uses)
  for _, use in ipairs(uses) do
    local group, numbers = Limits.group_of(use), Limits.numbers(q, use)
    local length = redis.call('ZCARD', Keys.group(q, group))
    if numbers[1] > 0 then
      Limits.room(q, group, numbers) -- drops holders that are none
      if redis.call('ZCARD', Keys.holders(q, group)) + length >= numbers[1] then return use end
    end
    if numbers[2] > 0 and (length > 0 or not Limits.ask_bucket(q, group, numbers, use[Limits.COST])) then
      return use
    end
  end
end

-- The job that is to end so that another one may run: the oldest or the newest one that runs and is not being
-- cancelled; if none does, of those that wait. `chosen` are those that are to end already.
function Limits.victim(q, use, chosen)
  local group, is_oldest = Limits.group_of(use), use[Limits.ON_LIMIT] == 'cancel_oldest'
  local range = is_oldest and 'ZRANGE' or 'ZREVRANGE'
  for _, id in ipairs(redis.call(range, Keys.holders(q, group), 0, Limits.TRIED - 1)) do
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

-- The place of the group in which a job waits among its limits; 0 for none.
function Limits.place(job)
  local waits = Groups.of(job)
  for i, use in ipairs(waits and Limits.of(job) or {}) do
    if Limits.group_of(use) == waits then return i end
  end
  return 0
end

-- Asks for the permits of a job at limits without a rate, in their order; returns whether it has them all. Else it
-- waits.
function Limits.ask_permits(q, id, job, front)
  local place = Limits.place(job)
  q.admitted = q.admitted or {}
  q.admitted[id] = true
  for i, use in ipairs(Limits.of(job)) do
    local group, numbers = Limits.group_of(use), Limits.numbers(q, use)
    local is_asked = not Limits.has_rate(use, numbers) and use[Limits.NAME] ~= Limits.FAIR
    -- It holds those before its place; for others this is asked only where there is no room.
    if is_asked and not (i < place and Limits.holds(q, group, id)) then
      local goes_first = front or i <= place
      local is_free = goes_first or redis.call('EXISTS', Keys.group(q, group)) == 0
      if is_free and Limits.room(q, group, numbers) > 0 then
        if numbers[1] > 0 then Limits.hold(q, group, id) end
      elseif not Limits.holds(q, group, id) then
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
  local uses, place, charges = Limits.of(job), Limits.place(job), {}
  for i, use in ipairs(uses) do
    local group, numbers = Limits.group_of(use), Limits.numbers(q, use)
    if Limits.has_rate(use, numbers) then
      local is_free = front or i == place or redis.call('EXISTS', Keys.group(q, group)) == 0
      local has_room = Limits.holds(q, group, id) or Limits.room(q, group, numbers) > 0
      local after, at, fitted = q.micros, nil, nil
      if numbers[2] > 0 then after, at, fitted = Limits.ask_bucket(q, group, numbers, use[Limits.COST]) end
      if not is_free or not has_room or not after then
        if i ~= place then use[Limits.REFUSALS] = use[Limits.REFUSALS] + 1 end
        Limits.wait(q, id, job, group, front or use[Limits.REFUSALS] > 1)
        if fitted then Limits.charge(q, group, numbers, fitted) end
        -- If others come first, it is for the first of them that a timer is set.
        if at and has_room and Limits.is_first(q, id, group) then Limits.look_again(q, group, at) end
        if is_free then Groups.block(q, group) end
        if use[Limits.REFUSALS] < Limits.RESERVED_AFTER then Limits.give_back(q, id, uses, true) end
        return false
      end
      charges[#charges + 1] = {group, numbers, after}
    end
  end
  for _, charge in ipairs(charges) do
    local group, numbers, after = unpack(charge)
    if numbers[1] > 0 then Limits.hold(q, group, id) end
    if numbers[2] > 0 then Limits.charge(q, group, numbers, after) end
  end
  for _, use in ipairs(uses) do use[Limits.REFUSALS] = 0 end
  return true
end

-- Asks for all that a job needs which is about to be run. Returns true if it may. Else it waits in the group that
-- has refused it, and the caller writes its record. `front`: the job was given back, and goes before others.
function Limits.admit(q, id, job, front)
  return Limits.ask_permits(q, id, job, front) and Limits.ask_rates(q, id, job, front)
end

-- When the rate of a group lets the first of its jobs run, in ms; 0 for now, or if none waits.
function Limits.due(q, group)
  local numbers = Limits.numbers_of(q, group)
  if numbers[2] == 0 or redis.call('EXISTS', Keys.group(q, group)) == 0 then return 0 end
  local _, at = Limits.ask_bucket(q, group, numbers, Limits.cost_of_first(q, group))
  return at and math.ceil(at / 1000) or 0
end

-- Looks at some groups of a limit that wait; returns where the next call continues, '0' if nothing is left.
function Limits.look_at_some(q, name, cursor)
  local found = redis.pcall('SSCAN', Keys.blocked(q, name), cursor, 'COUNT', Limits.LOOKED_AT)
  if is_unreadable(found) then return '0' end
  for _, key in ipairs(found[2]) do Limits.wake(q, name .. ':' .. key, nil, nil, true) end
  return found[1]
end

-- Has any worker look at all groups of a limit that wait: its numbers have changed.
function Limits.look_at_all(q, name, at)
  if q.is_claim then q.rooms, q.lone = {}, {} end
  local head = not q.is_claim and redis.call('ZRANGE', q.base .. Keys.SCHEDULED, 0, 0, 'WITHSCORES')
  Timer.set(q, Timer.LIMIT, '0 ' .. name, at or q.now)
  if head and (not head[1] or (at or q.now) < tonumber(head[2])) then Lanes.push(q, Keys.NORMAL, '', false) end
end

-- How many jobs of a key are taken in a turn, by one of them.
function Limits.weight(job)
  for _, use in ipairs(job and Limits.of(job) or {}) do
    if use[Limits.NAME] == Limits.FAIR then return math.max(use[Limits.WEIGHT], 1) end
  end
  return 1
end

-- Looks at some groups that wait, and at some tokens: a holder's record may have vanished, or a lane.
function Limits.sweep(q)
  if redis.call('EXISTS', q.base .. Keys.LIMITS, q.base .. Keys.TOKENS) == 0 then return end
  is_unreadable(redis.pcall('PEXPIRE', q.base .. Keys.LIMITS, Limits.KEPT))
  is_unreadable(redis.pcall('PEXPIRE', q.base .. Keys.HALTED, Limits.KEPT))
  local names = redis.pcall('HRANDFIELD', q.base .. Keys.LIMITS, Limits.SWEPT)
  names = is_unreadable(names) and {} or names
  names[#names + 1] = Limits.FAIR
  q.is_sweep = true
  for _, name in ipairs(names) do
    local keys = redis.pcall('SRANDMEMBER', Keys.blocked(q, name), Limits.SWEPT)
    for _, key in ipairs(is_unreadable(keys) and {} or keys) do
      local group = name .. ':' .. key
      if redis.call('EXISTS', Keys.group(q, group)) == 0 then Groups.unblock(q, group) end
      Limits.wake(q, group)
    end
  end
  local places = redis.pcall('HRANDFIELD', q.base .. Keys.TOKENS, Limits.SWEPT)
  for _, place in ipairs(is_unreadable(places) and {} or places) do
    local lane, group = string.match(place, '^(%S+) (.*)$')
    if lane and not Groups.has_token(q, group, lane) then
      redis.call('HDEL', q.base .. Keys.TOKENS, place)
      Limits.wake(q, group)
    end
  end
  q.is_sweep = nil
end
