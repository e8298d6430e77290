-- Notes whose declarations of schedules stand in this queue: those of the worker that was started last. The note goes
-- with the server's data, so it also tells whether they were lost.
--
-- NEEDS: base, common
-- KEYS: 1 base key
-- ARGV: 1 when the worker declared them, as this has told it (0 for now), 2 the hash of what its code declares
-- REPLY: {since when in microseconds, and the hash, of those that stand now; the hash of those that stood, '' for none}
local key = base .. ':declared'
-- What is none, because somebody has put something else in its place, is written over.
local found = redis.pcall('GET', key)
local since, code = string.match(not is_unreadable(found) and found or '', '^(%d+) (%x+)$')
local stood, mine = tonumber(since or 0), tonumber(ARGV[1])
-- Whoever starts comes last, also where the clock was set back.
if mine == 0 then mine = math.max(clock[1] * 1000000 + clock[2], stood + 1) end
if mine <= stood then return {stood, code, code} end
redis.call('SET', key, string.format('%.0f %s', mine, ARGV[2]))
return {mine, ARGV[2], code or ''}
