-- Reads what has happened in a queue, by its numbers: rows of the history, and live events; and says which of
-- these are to be recorded from now on.
--
-- NEEDS: call, keys
-- USES: reads counters, events, history, listening, watched; writes listening, watched
-- KEYS: 1 base key
-- ARGV: 1 the number in the history after which to begin, '' to read nothing, 2 the number in the events,
--   likewise, 3 the most entries of each, 4 which live events are recorded from now on: `j` those of jobs, `w`
--   those of workers and pauses, 'jw' both, '' to change nothing, 5 for how many ms
-- REPLY: {time in ms; the last number in the history, and in the events; since when all of these are recorded in
--   ms, -1 if some were not; the entries of the history, {id, {fields and values}} each, the first of which may
--   also hold earlier jobs; the same of the events}
local after, most = {ARGV[1], ARGV[2]}, tonumber(ARGV[3])
-- A stream is read up to the entry with which it has as many bytes.
local READ_LIMIT = 524288

local function read(stream, from)
  local reply, bytes = {}, 0
  if from == '' then return reply end
  local first = string.format('%.0f', tonumber(from) + 1)
  local found = redis.pcall('XRANGE', q.base .. stream, first, '+', 'COUNT', most)
  if is_unreadable(found) then return reply end
  for _, entry in ipairs(found) do
    if bytes >= READ_LIMIT then break end
    for i = 2, #entry[2], 2 do bytes = bytes + #entry[2][i] end
    reply[#reply + 1] = entry
  end
  return reply
end

local counters = redis.pcall('HMGET', q.base .. Keys.COUNTERS, 'history', 'events')
if is_unreadable(counters) then counters = {} end

local since = ARGV[4] == '' and -1 or 0
local function listen(key)
  local found = redis.pcall('GET', key)
  if is_unreadable(found) or not found then
    redis.call('SET', key, q.now, 'PX', ARGV[5])
    since = -1
    return
  end
  redis.call('PEXPIRE', key, ARGV[5])
  if since >= 0 then since = math.max(since, tonumber(found)) end
end
if string.find(ARGV[4], 'j', 1, true) then listen(q.base .. Keys.LISTENING) end
if string.find(ARGV[4], 'w', 1, true) then listen(q.base .. Keys.WATCHED) end
return {
  q.now, tonumber(counters[1] or 0), tonumber(counters[2] or 0), since,
  read(Keys.HISTORY, after[1]), read(Keys.EVENTS, after[2]),
}
