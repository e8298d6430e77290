-- Says what holds back a job that waits in a group.
--
-- NEEDS: call, keys, record, groups, limits
-- USES: reads bucket, group, halted, holders, job, limits
-- KEYS: 1 base key
-- ARGV: 1 the job, 2 how many holders are named
-- REPLY: {} if it does not wait so. Else {its group, why: 'paused', 'full', 'rate' or 'turn', how many jobs come
--   before it, until when in ms (0 if that is not known), and holders}
local job = Record.load(q, ARGV[1])
local group = job and Groups.of(job)
local ahead = group and redis.pcall('ZRANK', Keys.group(q, group), ARGV[1])
if not ahead or is_unreadable(ahead) then return {} end

local numbers, paused, due = Numbers.of_group(q, group), Numbers.paused_until(q, group), Limits.due(q, group)
local held = redis.call('ZCARD', Keys.holders(q, group))
local why, at = 'turn', 0
if paused then
  why, at = 'paused', paused
elseif numbers[1] > 0 and held >= numbers[1] then
  why = 'full'
elseif due > 0 then
  why, at = 'rate', due
end
local reply = {group, why, ahead, string.format('%.0f', at)}
for _, id in ipairs(redis.call('ZRANGE', Keys.holders(q, group), 0, ARGV[2] - 1)) do reply[#reply + 1] = id end
return reply
