-- Reads what is known of an app-wide limiter; called for the slot of the limiter.
--
-- NEEDS: keys
-- USES: reads limiter, row
-- KEYS: 1 base key
-- ARGV: 1 about how many processes to read
-- REPLY: empty if there is none; else {its numbers, how many tokens there are, how many places are used, how
--   many processes wait for one, for how many ms a service has asked for a pause, then per process its name and
--   how many places it holds}
local key = q.base .. Keys.LIMITER
local found = redis.call('HMGET', key, 'rule', 'level', 'at', 'left', 'until', 'used')
if not found[1] then return {} end
local rate, span, burst = string.match(found[1], '^(.-):(.-):(.-):.*$')
local level = math.min(tonumber(burst), found[2] + rate / span * math.max(0, q.now - found[3]))
local left, closed_until, pause = tonumber(found[4]), tonumber(found[5]), 0
if closed_until > q.now then
  level = math.min(level, left)
  if left < 1 then pause = closed_until - q.now end
end
local reply = {
  found[1], string.format('%.17g', level), tonumber(found[6]), redis.call('ZCARD', q.base .. Keys.ROW), pause,
}
local shown, most = redis.call('HSCAN', key, '0', 'COUNT', tonumber(ARGV[1]) * 2)[2], tonumber(ARGV[1])
for i = 1, #shown, 2 do
  local places = string.match(shown[i + 1], '^(%d+) %d+$')
  if most > 0 and places and places ~= '0' and string.sub(shown[i], 1, 2) == 'h:' then
    reply[#reply + 1] = string.sub(shown[i], 3)
    reply[#reply + 1] = tonumber(places)
    most = most - 1
  end
end
return reply
