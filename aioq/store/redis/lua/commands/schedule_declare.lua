-- Notes two things: the schedules that a worker's code declares, for as long as the worker is alive, and the
-- current declaration of this queue, which is that of the worker that was started last. The notes are lost with
-- the server's data, so they also show whether that was lost.
--
-- NEEDS: call, keys, msgpack, leases, owners
-- USES: reads declared, fetched, held, owners, schedules, workers; writes declared, noted, owners
-- KEYS: 1 base key
-- ARGV: 1 when the worker declared them, from an earlier reply (0 for now), 2 the hash of what its code declares,
--   3 the worker ('' if the caller is no worker), 4 the ids of the schedules that its code declares, as a
--   MessagePack array
-- REPLY: {when the current declaration was made, in microseconds; its hash; the hash of the one before, '' for
--   none; 1 if there are more notes of workers that are gone}
local key = q.base .. Keys.DECLARED
local mine, worker = tonumber(ARGV[1]), ARGV[3] or ''

-- Deletes notes of workers that are gone: a recovery deletes them, but not if the set of workers was lost. It
-- checks LOOKED_AT notes, chosen at random. If more than half of them were such, there are probably more.
local LOOKED_AT = 500
local function clean()
  local found = redis.pcall('HRANDFIELD', q.base .. Keys.OWNERS, LOOKED_AT)
  if is_unreadable(found) then
    redis.call('DEL', q.base .. Keys.OWNERS)
    return 0
  end
  local lost = {}
  for _, other in ipairs(found) do
    if Leases.is_lost(q, other) then lost[#lost + 1] = other end
  end
  if lost[1] then redis.call('HDEL', q.base .. Keys.OWNERS, unpack(lost)) end
  return #found == LOOKED_AT and 2 * #lost > #found and 1 or 0
end

local function note()
  if Leases.is_lost(q, worker) then return end
  -- First the time of the note, then the note: so a worker that deletes a schedule in between has to read the
  -- notes again.
  if ARGV[4] ~= NO_ITEMS and Owners.noted_by(q, worker) ~= ARGV[4] then
    redis.call('SET', q.base .. Keys.NOTED, q.micros, 'PX', Owners.NOTED_MS)
  end
  redis.call('HSET', q.base .. Keys.OWNERS, worker, ARGV[4])
end

local more = 0
if worker ~= '' then
  more = clean()
  note()
end
-- If there are no schedules, a worker does not change the current declaration.
if worker ~= '' and ARGV[4] == NO_ITEMS and redis.call('EXISTS', q.base .. Keys.SCHEDULES) == 0 then
  return {math.max(mine, 1), ARGV[2], ARGV[2], more}
end

-- A malformed value, put there by hand, is overwritten.
local found = redis.pcall('GET', key)
local since, code = string.match(not is_unreadable(found) and found or '', '^(%d+) (%x+)$')
local latest = tonumber(since or 0)
-- A worker that starts is the latest, even if the clock was set back.
if mine == 0 then mine = math.max(q.micros, latest + 1) end
if mine <= latest then return {latest, code, code, more} end
redis.call('SET', key, string.format('%.0f %s', mine, ARGV[2]))
return {mine, ARGV[2], code or '', more}
