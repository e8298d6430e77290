-- Permits of limits: which jobs hold one, and how many more a group has.
--
-- A job that runs is a holder of each of its groups with a concurrency: HOLDERS has its id, by when it got there.
-- There is no counter. A holder without a record, or whose record says that it holds nothing, is nobody: so a
-- script that failed half-way, or an eviction, takes no permit away for good. Such holders are looked for where a
-- group is full.
--
-- NEEDS: call, keys, record_text_write, record, timers, groups, limit_use, limit_numbers
local Permits = {}
-- How many of the holders of a full group are looked up: those that have held their permits the longest; a sweep
-- looks up any, for jobs that run for days may come before one that is gone.
Permits.LOOKED_UP = 2
Permits.NO_BOUND = 1000000000

-- Whether a job holds a permit of a group, by its record.
function Permits.is_holder(job, group)
  for _, use in ipairs(Use.of(job) or {}) do
    if Use.group_of(use) == group then
      local waits = Groups.of(job)
      if Record.has_ended(job) or Record.is_elsewhere(job) then return false end
      -- One that waits in this group itself has none, whatever a claim has left that failed half-way.
      return job[Field.STATE] == 'running' or waits ~= group and (waits ~= nil or use[Use.ORDERED])
    end
  end
  return false
end

-- Takes the permits back of holders that are none; returns how many these were. The records of those to which this
-- call has given permits do not say so yet (`q.admitted`).
function Permits.drop_strays(q, group)
  local key, dropped = Keys.holders(q, group), 0
  local ids = q.is_sweep and redis.call('ZRANDMEMBER', key, Permits.LOOKED_UP)
    or redis.call('ZRANGE', key, 0, Permits.LOOKED_UP - 1)
  for _, id in ipairs(ids) do
    local is_new = q.admitted and q.admitted[id]
    local text = not is_new and redis.pcall('GET', Keys.job(q, id))
    local job = text and not is_unreadable(text) and Record.unpacked(text)
    local is_unknown = text and not job -- this version cannot read it, so it may hold a permit
    if not is_new and not is_unknown and not (job and Permits.is_holder(job, group)) then
      redis.call('ZREM', key, id)
      dropped = dropped + 1
    end
  end
  return dropped
end

-- How many more jobs of a group may run at once, without its rate. A claim asks the server once (`q.rooms`).
function Permits.room(q, group, numbers, limit)
  local room = q.rooms and q.rooms[group]
  if room then return room end
  room = Permits.ask_room(q, group, numbers, limit)
  if q.rooms then q.rooms[group] = room end
  return room
end
function Permits.ask_room(q, group, numbers, limit)
  local paused = Numbers.paused_until(q, group, limit)
  if paused and paused > 0 then Timer.set(q, Timer.GROUP, group, paused) end
  if paused then return 0 end
  if numbers[1] == 0 then return Permits.NO_BOUND end
  local held = redis.pcall('ZCARD', Keys.holders(q, group))
  if is_unreadable(held) then return 0 end
  local room = numbers[1] - held
  return room > 0 and room or room + Permits.drop_strays(q, group)
end

-- The room of a group of such a limit in a claim.
function Permits.simple_room(q, group, numbers)
  local room = q.rooms[group]
  if room then return room end
  local held = redis.pcall('ZCARD', Keys.holders(q, group))
  if type(held) ~= 'number' or held >= numbers[1] then return Permits.room(q, group, numbers) end
  q.rooms[group] = numbers[1] - held
  return numbers[1] - held
end

-- A claim gathers the permits that it gives in `q.given`, by group, and writes them before the records.
function Permits.begin_claim(q)
  q.rooms, q.given, q.joined, q.admitted, q.lone, q.is_claim = {}, {}, {}, {}, {}, true
  Groups.gather_tokens(q)
end

-- Whether a job is a holder of a group.
function Permits.holds(q, group, id)
  if q.given and q.given[group] then Permits.write_given(q) end
  return redis.call('ZSCORE', Keys.holders(q, group), id) and true or false
end

-- Makes a job a holder of a group.
function Permits.hold(q, group, id)
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
function Permits.write_given(q)
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
