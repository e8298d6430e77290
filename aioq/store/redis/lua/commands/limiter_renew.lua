-- Renews the lease of the places of an app-wide limiter that a process holds; called for the slot of the limiter.
--
-- It changes nothing else: a thread of the process renews, and does not know how many places its other calls take.
--
-- NEEDS: keys
-- USES: reads limiter; writes limiter
-- KEYS: 1 base key
-- ARGV: 1 the process, 2 for how many ms its lease lasts
-- REPLY: how many places it holds; 0 if its lease has ended and was given up
local key, mine = q.base .. Keys.LIMITER, 'h:' .. ARGV[1]
local places = string.match(redis.call('HGET', key, mine) or '', '^(%d+) %d+$')
if not places then return 0 end
redis.call('HSET', key, mine, places .. ' ' .. string.format('%.0f', q.now + tonumber(ARGV[2])))
return tonumber(places)
