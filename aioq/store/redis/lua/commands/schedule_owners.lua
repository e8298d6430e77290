-- Finds the live workers whose code declares schedules, in several calls: each reads the notes of some workers,
-- and continues where the one before has ended. The note of a worker that is there during all calls is read at
-- least once.
--
-- NEEDS: keys, leases, owners
-- USES: reads noted, owners, workers
-- KEYS: 1 base key
-- ARGV: 1 where to continue with the workers (0 to begin), 2 about how many of them, 3 the workers that the call
--   before has left, as a MessagePack array: if there are any, only their notes are read,
--   then one per schedule: its id
-- REPLY: {where the next call continues ('0' if nothing is left), the workers that this call has left, as a
--   MessagePack array, when a worker has last noted what it declares, a worker that has not noted what its code
--   declares, '' for none; and per schedule a worker whose code declares it, '' for none}
local cursor, workers = ARGV[1], cmsgpack.unpack(ARGV[3])
if not workers[1] then
  local some = redis.call('ZSCAN', q.base .. Keys.WORKERS, cursor, 'COUNT', ARGV[2])
  cursor = some[1]
  for i = 1, #some[2], 2 do
    if tonumber(some[2][i + 1]) ~= Leases.RECOVERING then workers[#workers + 1] = some[2][i] end
  end
end

-- The most bytes of notes that a call reads: a worker may declare thousands of schedules. Equal notes, as of the
-- workers of one program, are decoded once.
local READ_LIMIT = 1048576
local owner, silent, seen, bytes = {}, '', {}, 0
local function read_note(worker)
  local text = Owners.noted_by(q, worker)
  local ids = text and (seen[text] or Owners.ids_in(text))
  if not ids then
    silent = worker
    return
  end
  if not seen[text] then
    for _, id in ipairs(ids) do owner[id] = owner[id] or worker end
    bytes = bytes + 3 * #text -- decoding takes longer than reading
  end
  seen[text] = ids
  bytes = bytes + #text
end

local count = 0
while count < #workers and bytes < READ_LIMIT do
  count = count + 1
  read_note(workers[count])
end
local left = {}
for i = count + 1, #workers do left[#left + 1] = workers[i] end

local reply = {cursor, cmsgpack.pack(left), Owners.last_noted(q), silent}
for i = 4, #ARGV do reply[#reply + 1] = owner[ARGV[i]] or '' end
return reply
