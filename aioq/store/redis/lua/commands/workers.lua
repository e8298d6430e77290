-- Lists the workers of a queue, in several calls: each continues where the one before has ended. A worker that is
-- there during all calls is returned at least once.
--
-- NEEDS: call, keys
-- USES: reads about, fetched, workers
-- KEYS: 1 base key
-- ARGV: 1 where to continue (0 to begin), 2 about how many workers
-- REPLY: {where the next call continues ('0' if nothing is left), and four per worker: its id, for how many ms
--   its lease still lasts (negative if it has ended), how many ms ago it last fetched, what it says of itself}
local found = redis.call('ZSCAN', q.base .. Keys.WORKERS, ARGV[1], 'COUNT', ARGV[2])
local reply, members = {found[1]}, found[2]
for i = 1, #members, 2 do
  local fetched = redis.call('ZSCORE', q.base .. Keys.FETCHED, members[i])
  local about, n = redis.pcall('HGET', q.base .. Keys.ABOUT, members[i]), #reply
  reply[n + 1], reply[n + 2] = members[i], members[i + 1] - q.now
  reply[n + 3] = fetched and math.max(0, q.now - fetched) or -1
  reply[n + 4] = not is_unreadable(about) and about or ''
end
return reply
