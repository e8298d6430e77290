-- Finds whether the code of a live worker declares schedules, step by step: each call looks at some of the workers
-- and goes on where the one before has ended. A worker that is there all the time is looked at once at least.
--
-- NEEDS: keys, leases, owners
-- USES: reads noted, owners, workers
-- KEYS: 1 base key
-- ARGV: 1 where to go on with the workers (0 to begin), 2 about how many of them, 3 those that the call before has left, as a
--   MessagePack array; where there are any, only they are looked at,
--   then one per schedule: its id
-- REPLY: {where the next call goes on ('0' for nowhere), the workers that this one has left, as a MessagePack array, when a
--   worker has last noted what it declares, a worker that has not said what its code declares, '' for none; and per schedule
--   a worker whose code declares it, '' for none}
local cursor, workers = ARGV[1], cmsgpack.unpack(ARGV[3])
if not workers[1] then
  local some = redis.call('ZSCAN', q.base .. WORKERS, cursor, 'COUNT', ARGV[2])
  cursor = some[1]
  for i = 1, #some[2], 2 do
    if tonumber(some[2][i + 1]) ~= RECOVERING then workers[#workers + 1] = some[2][i] end
  end
end

-- What is read in one call, in bytes: a worker may declare thousands. What another one declares likewise, as the workers of
-- one program do, is looked at once.
local READ_LIMIT = 1048576
local owner, unsaid, seen, bytes = {}, '', {}, 0
local function look_at(worker)
  local text = Owners.noted_by(q, worker)
  local ids = text and (seen[text] or Owners.ids_in(text))
  if not ids then
    unsaid = worker
    return
  end
  if not seen[text] then
    for _, id in ipairs(ids) do owner[id] = owner[id] or worker end
    bytes = bytes + 3 * #text -- it takes longer to look at than to read
  end
  seen[text] = ids
  bytes = bytes + #text
end

local looked = 0
while looked < #workers and bytes < READ_LIMIT do
  looked = looked + 1
  look_at(workers[looked])
end
local left = {}
for i = looked + 1, #workers do left[#left + 1] = workers[i] end

local reply = {cursor, cmsgpack.pack(left), Owners.last_noted(q), unsaid}
for i = 4, #ARGV do reply[#reply + 1] = owner[ARGV[i]] or '' end
return reply
