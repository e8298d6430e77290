-- Keeps places of a process whose sends wait for room, and gives up others; see lib/rooms.lua.
--
-- NEEDS: keys, rooms
-- USES: reads lanes, leftovers, named, places, scheduled, senders, waiting; writes named, places, senders;
--   publishes room
-- KEYS: 1 base key
-- ARGV: 1 the process, 2 how many places are kept, then one per place: its number; first those that are kept,
--   then those that are given up
-- REPLY: for each place that is kept and for which there is room its number, and for how many of its jobs; or -1
--   if the place is not known
local kept, gone, reply = tonumber(ARGV[2]), {}, {}
-- Keeps a place; returns whether it is known.
local function keep(name)
  local since = redis.pcall('ZSCORE', q.base .. Keys.SENDERS, name)
  local text = redis.pcall('HGET', q.base .. Keys.PLACES, name)
  local place = since and not is_unreadable(since) and not is_unreadable(text) and Rooms.parsed(name, since, text)
  if place then Rooms.write(q, name, place.wanted, place.most, q.now + Rooms.ALIVE) end
  return place
end

for i = 3, #ARGV do
  local name = ARGV[1] .. '.' .. ARGV[i]
  if i - 2 > kept then
    gone[#gone + 1] = name
  elseif not keep(name) then
    reply[#reply + 1], reply[#reply + 2] = tonumber(ARGV[i]), -1
  end
end
Rooms.remove(q, gone)
if kept > 0 then Rooms.keep(q) end
for _, each in ipairs(Rooms.tell(q, ARGV[1])) do reply[#reply + 1] = each end
return reply
