-- Sends that wait for room in a queue with a bound (`on_full = "wait"`), first come, first served.
--
-- A send for whose jobs there is no room gets a place: SENDERS has its name, by when it came in microseconds, and
-- PLACES by its name how many of its jobs wait, the bound that its process knows, and until when in ms the place
-- counts. A name is the process, a dot and a number. Whatever makes room publishes to the first ones as many as
-- there is room for (`Rooms.tell`), and they send again. A later send leaves room for those before it
-- (`Rooms.left`).
--
-- A process asks about its places every other second (commands/room.lua). One that does not, or that does not hear
-- what is published to it, is dead or hangs: its places are passed over, and removed some time later.
--
-- NEEDS: call, keys, size
local Rooms = {}
-- For how many ms a place counts once its process has asked; after how many more it is removed.
Rooms.ALIVE, Rooms.KEPT = 6000, 30000
-- For how many microseconds a place that is new counts although its process does not hear: it begins to listen.
Rooms.NEW = 1000000
-- How many places a call looks at; how many it reads at once; for how many seconds they are kept.
Rooms.MOST, Rooms.STEP, Rooms.EXPIRES = 1000, 50, 60

-- Whether any send waits.
function Rooms.has_some(q)
  local there = redis.pcall('EXISTS', q.base .. Keys.SENDERS)
  return not is_unreadable(there) and there == 1
end

-- Removes places, given by their names.
function Rooms.remove(q, names)
  if not names[1] then return end
  is_unreadable(redis.pcall('ZREM', q.base .. Keys.SENDERS, unpack(names)))
  is_unreadable(redis.pcall('HDEL', q.base .. Keys.PLACES, unpack(names)))
end

-- A place, from what is stored of it; nil if that is nothing of use.
function Rooms.parsed(name, since, text)
  local wanted, most, counts_until = string.match(text or '', '^(%d+) (%d+) (%d+)$')
  local process, number = string.match(name, '^(.*)%.(%d+)$')
  if not wanted or not process then return nil end
  return {
    name = name, process = process, number = number, since = tonumber(since),
    wanted = tonumber(wanted), most = tonumber(most), counts_until = tonumber(counts_until),
  }
end

-- Calls `visit` with each place in its order, and whether it counts, until it returns false; removes those of dead
-- processes.
function Rooms.walk(q, visit)
  local key, gone, looked_at, goes_on = q.base .. Keys.SENDERS, {}, 0, true
  while goes_on and looked_at < Rooms.MOST do
    local found = redis.pcall('ZRANGE', key, looked_at, looked_at + Rooms.STEP - 1, 'WITHSCORES')
    if is_unreadable(found) or not found[1] then break end
    local names = {}
    for i = 1, #found, 2 do names[#names + 1] = found[i] end
    local texts = redis.pcall('HMGET', q.base .. Keys.PLACES, unpack(names))
    if is_unreadable(texts) then texts = {} end
    for i, name in ipairs(names) do
      local place = Rooms.parsed(name, found[2 * i], texts[i])
      if not place or place.counts_until + Rooms.KEPT < q.now then
        gone[#gone + 1] = name
      elseif not visit(place, place.counts_until > q.now) then
        goes_on = false
        break
      end
    end
    looked_at = looked_at + #names
    if #names < Rooms.STEP then break end
  end
  Rooms.remove(q, gone)
end

-- How much of the `room` in the queue is left for a send: those that came before it come first.
function Rooms.left(q, name, room)
  if room <= 0 or not Rooms.has_some(q) then return room end
  Rooms.walk(q, function(place, counts)
    if place.name == name then return false end
    if counts then room = room - place.wanted end
    return room > 0
  end)
  return room
end

function Rooms.write(q, name, wanted, most, counts_until)
  redis.call('HSET', q.base .. Keys.PLACES, name, string.format('%d %d %.0f', wanted, most, counts_until))
end

-- Notes how many jobs of a send wait, which ends with the last one; it keeps its place.
function Rooms.stand(q, name, wanted, most)
  if wanted == 0 then
    if Rooms.has_some(q) then Rooms.remove(q, {name}) end
    return
  end
  redis.call('ZADD', q.base .. Keys.SENDERS, 'NX', q.micros, name)
  Rooms.write(q, name, wanted, most, q.now + Rooms.ALIVE)
  Rooms.keep(q)
end

function Rooms.keep(q)
  redis.call('EXPIRE', q.base .. Keys.SENDERS, Rooms.EXPIRES)
  redis.call('EXPIRE', q.base .. Keys.PLACES, Rooms.EXPIRES)
end

-- Lets the first sends that wait know that there is room, as many as there is room for. For those of `process` it
-- returns what it would say: a list with each number, and for how many jobs.
function Rooms.tell(q, process)
  local own = {}
  if not Rooms.has_some(q) then return own end
  local size, deaf, passed = Size.of(q), {}, 0
  Rooms.walk(q, function(place, counts)
    if not counts then return true end
    local room = math.min(place.most - size, place.wanted)
    if room <= 0 then
      -- Another process may know a larger bound, and its sends have room behind this one.
      size, passed = size + place.wanted, passed + 1
      return passed < Rooms.STEP
    end
    if place.process == process then
      own[#own + 1], own[#own + 2] = tonumber(place.number), room
    else
      local channel, message = Keys.room_channel(q, place.process), string.format('%s %d', place.number, room)
      if redis.call('PUBLISH', channel, message) == 0 and place.since + Rooms.NEW < q.micros then
        deaf[#deaf + 1] = place
        return true
      end
    end
    size = size + room
    return true
  end)
  for _, place in ipairs(deaf) do Rooms.write(q, place.name, place.wanted, place.most, q.now - 1) end
  return own
end
