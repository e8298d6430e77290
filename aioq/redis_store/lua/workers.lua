-- Tells which workers a queue has.
--
-- NEEDS: base, common
-- KEYS: 1 base key
-- ARGV: none
-- REPLY: three per worker: its id, the ms its lease lasts from now on (negative where it has ended), how many ms ago
--   it last fetched
local reply = {}
local found = redis.call('ZRANGE', WORKERS, 0, -1, 'WITHSCORES')
for i = 1, #found, 2 do
  local fetched = redis.call('ZSCORE', FETCHED, found[i])
  local n = #reply
  reply[n + 1], reply[n + 2] = found[i], found[i + 1] - now
  reply[n + 3] = fetched and math.max(0, now - fetched) or -1
end
return reply
