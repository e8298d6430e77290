-- Lists the newest flows. Those that have been deleted are removed from the list.
--
-- NEEDS: keys, record
-- USES: reads flow, flows, flowstates, job; writes flows
-- KEYS: 1 base key
-- ARGV: 1 the most flows, 2 up to when they began, in ms, '+inf' for now, 3 of those that began just then, before
--   which flow they are, '' for all
-- REPLY: {1 if there may be more, else 0, when the last one began that was looked at ('' for none), and this
--   flow}; then per flow the flow, when it began, its head, its states, how many nodes it has, and the state of
--   its own record ('' for none)
local most, before_ms, before_id = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local key, found = q.base .. Keys.FLOWS, {}
-- So many may have begun at the same time as the last one of the page before.
local SPARE = 100
local oldest = before_ms == '+inf' and '-inf' or '-' .. before_ms

local function add(members)
  for i = 1, #members, 2 do
    local id, begun = members[i], math.abs(tonumber(members[i + 1]))
    local is_at_end = string.format('%.0f', begun) == before_ms
    if not is_at_end or before_id == '' or id < before_id then found[#found + 1] = {id, begun} end
  end
end
local open = redis.call('ZRANGEBYSCORE', key, oldest, '(0', 'WITHSCORES', 'LIMIT', 0, most + SPARE)
local over = redis.call('ZREVRANGEBYSCORE', key, before_ms, 0, 'WITHSCORES', 'LIMIT', 0, most + SPARE)
add(open)
add(over)
table.sort(found, function(one, other)
  if one[2] ~= other[2] then return one[2] > other[2] end
  return one[1] > other[1]
end)

local reply = {{0, '', ''}}
for i, each in ipairs(found) do
  local id, begun = each[1], string.format('%.0f', each[2])
  if i > most then
    reply[1][1] = 1
    break
  end
  reply[1][2], reply[1][3] = begun, id
  local facts = redis.call('HMGET', Keys.flow(q, id), 'head', 'nodes')
  if facts[1] then
    local job, n = Record.load(q, id), #reply
    reply[n + 1], reply[n + 2], reply[n + 3] = id, tonumber(begun), facts[1]
    reply[n + 4], reply[n + 5] = redis.call('GET', Keys.flow_states(q, id)) or '', tonumber(facts[2])
    reply[n + 6] = job and (job[Field.STATE] or 'queued') or ''
  else
    redis.call('ZREM', key, id)
  end
end
return reply
