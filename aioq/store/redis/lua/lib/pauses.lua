-- What is paused: a queue as a whole, or tasks of it.
--
-- PAUSED is a hash. It has `queue` if the whole queue is paused, and `task <name>` for each task that is: each
-- with when that began and when it ends, in ms, 0 for when somebody ends it. And it has `aside <stream>` while
-- jobs of that stream may run again: the entry up to which they have been looked at.
--
-- A claim reads it only if the worker's lease is marked (lib/leases.lua). Whoever pauses something notes that
-- first, and then marks the leases of all workers; a worker that joins is marked if something is paused; a sweep
-- marks those that were left out. So where nothing is paused, this costs a claim nothing. The mark goes when its
-- worker finds that nothing is paused any more.
--
-- A claim that meets a job of a paused task sets it aside: its entry moves to another stream (`Keys.aside_of`),
-- so that no claim meets it again. There are two for each lane, since what came from the front goes before all
-- else. When a task is resumed, claims take its jobs from there, before those of the lane that came later. An
-- entry is deleted when none of its jobs is set aside any more. Wherever a script fails, a job has at least one
-- entry. Other jobs of the same entry may be set aside with it, to keep their order: claims look there for them at
-- once.
--
-- NEEDS: call, keys, events
local Pauses = {}
-- The message to a worker after which it has to look at what is paused.
Pauses.CHANGED = '-1'

-- Ends pauses, given as fields of PAUSED; `found` is the result of `now` that is to have that too. What was set
-- aside is looked at from its beginning before the pause ends.
function Pauses.lift(q, fields, found)
  if fields[2] or fields[1] ~= 'queue' then
    local first = {}
    for i, stream in ipairs(Keys.ASIDE) do
      first[2 * i - 1], first[2 * i], found.aside[stream] = 'aside ' .. stream, '0-0', '0-0'
    end
    redis.call('HSET', q.base .. Keys.PAUSED, unpack(first))
  end
  redis.call('HDEL', q.base .. Keys.PAUSED, unpack(fields))
end

-- What is paused now: whether the whole `queue` is, the `tasks` that are, and their `count`; `ends`, when the
-- first of these pauses ends, 0 for none; and `aside`, by stream, as above. Nil if there is nothing of it. Ends
-- the pauses whose time is over; `marks` are those of lib/events.lua.
function Pauses.now(q, marks)
  local fields = redis.pcall('HGETALL', q.base .. Keys.PAUSED)
  if is_unreadable(fields) or not fields[1] then return nil end
  local found, over = {tasks = {}, count = 0, ends = 0, aside = {}}, {}
  for i = 1, #fields, 2 do
    local kind, name = string.match(fields[i], '^(%a+) ?(.*)$')
    local ends = tonumber(string.match(fields[i + 1], '^%d+ (%d+)$'))
    if kind == 'aside' then
      found.aside[name] = fields[i + 1]
    elseif ends and ends > 0 and ends <= q.now then
      over[#over + 1] = fields[i]
    elseif ends then
      if ends > 0 and (found.ends == 0 or ends < found.ends) then found.ends = ends end
      if kind == 'queue' then found.queue = true end
      if kind == 'task' then found.tasks[name], found.count = true, found.count + 1 end
    end
  end
  if over[1] then
    Pauses.lift(q, over, found)
    if Events.are_watched(q, marks) then Events.add_pauses(q, 'u', over) end
  end
  return (found.queue or found.count > 0 or next(found.aside)) and found or nil
end

-- Adds to a reply for a worker, after two items, what it needs to know: 1 if the whole queue is paused, else 0;
-- the number of paused tasks; when the first pause ends (0 for none), and in how many ms.
function Pauses.tell(q, reply, found)
  if not found then return reply end
  reply[3], reply[4], reply[5] = found.queue and 1 or 0, found.count, found.ends
  reply[6] = math.max(0, found.ends - q.now)
  return reply
end
