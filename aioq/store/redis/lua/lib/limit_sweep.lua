-- Looks at groups that wait, some at a time.
--
-- NEEDS: call, keys, groups, limit_use, limit_numbers, limits
local Sweep = {}
-- How many groups a step looks at.
Sweep.LOOKED_AT = 100
-- How many limits, groups of each, and tokens a sweep looks at.
Sweep.SWEPT = 10

-- Looks at some groups of a limit that wait; returns where the next call continues, '0' if nothing is left.
function Sweep.look_at_some(q, name, cursor)
  local found = redis.pcall('SSCAN', Keys.blocked(q, name), cursor, 'COUNT', Sweep.LOOKED_AT)
  if is_unreadable(found) then return '0' end
  for _, key in ipairs(found[2]) do Limits.wake(q, name .. ':' .. key, nil, nil, true) end
  return found[1]
end

-- Looks at some groups that wait, and at some tokens: a holder's record may have vanished, or a lane.
function Sweep.groups(q)
  if redis.call('EXISTS', q.base .. Keys.LIMITS, q.base .. Keys.TOKENS) == 0 then return end
  is_unreadable(redis.pcall('PEXPIRE', q.base .. Keys.LIMITS, Numbers.KEPT))
  is_unreadable(redis.pcall('PEXPIRE', q.base .. Keys.HALTED, Numbers.KEPT))
  local names = redis.pcall('HRANDFIELD', q.base .. Keys.LIMITS, Sweep.SWEPT)
  names = is_unreadable(names) and {} or names
  names[#names + 1] = Use.FAIR
  q.is_sweep = true
  for _, name in ipairs(names) do
    local keys = redis.pcall('SRANDMEMBER', Keys.blocked(q, name), Sweep.SWEPT)
    for _, key in ipairs(is_unreadable(keys) and {} or keys) do
      local group = name .. ':' .. key
      if redis.call('EXISTS', Keys.group(q, group)) == 0 then Groups.unblock(q, group) end
      Limits.wake(q, group)
    end
  end
  local places = redis.pcall('HRANDFIELD', q.base .. Keys.TOKENS, Sweep.SWEPT)
  for _, place in ipairs(is_unreadable(places) and {} or places) do
    local lane, group = string.match(place, '^(%S+) (.*)$')
    if lane and not Groups.has_token(q, group, lane) then
      redis.call('HDEL', q.base .. Keys.TOKENS, place)
      Limits.wake(q, group)
    end
  end
  q.is_sweep = nil
end
