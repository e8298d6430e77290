-- Groups of jobs that wait together, each for what its group is limited by: see lib/limits.lua.
--
-- A group has a name, such as `customer:7`: what stands before the first colon is the limit, the rest is the key.
-- The jobs of a group that wait are in no lane but in a sorted set: first those of the lane `high`, then `normal`,
-- then `low`; within a lane in the order in which they came. A group of which a job may run has a token in each
-- lane in which it has jobs: an entry like that of a job, whose id begins with a tab, which no id does. So a group
-- takes its turn among the jobs of a lane, whoever meets the token takes as many jobs as may run, and the entry
-- wakes one worker, as any other does. If there are more that may run, a new token goes to the end of the lane.
-- A group of which no job may run has no token, and costs nothing until something changes.
--
-- TOKENS notes the entry that has a token, by lane and group. So whoever gives a group a token looks whether that
-- entry is there; an entry that was claimed is not noted any more. A token has a serial number, and one that is
-- met counts only if it is the noted one, or the noted one is gone: so there is one in the end, whatever was lost.
-- While a claim runs, tokens are gathered in `q.tokens`, because the claim trims the lanes once it has read them.
--
-- NEEDS: call, keys, record, lanes
local Groups = {}

Groups.LANES = {'high', 'normal', 'low'}
Groups.RANK = {high = 0, normal = 1, low = 2}
-- How far the scores of two lanes are apart: a score is the rank of the lane times this, and a time in µs. So
-- scores stay below 2^53 until the year 2065.
Groups.SPAN = 3000000000000000

function Groups.limit_of(group) return string.match(group, '^[^:]*') end
function Groups.key_of(group) return string.match(group, ':(.*)$') or '' end
-- A number of sixteen digits as a server takes it: Lua's own way keeps fourteen.
function Groups.digits(number) return string.format('%.0f', number) end
function Groups.end_of(lane) return '(' .. Groups.digits((Groups.RANK[lane] + 1) * Groups.SPAN) end

-- The score of a job that comes to a group: after all others of its lane, or before them.
function Groups.score(q, group, lane, front)
  local key, start = Keys.group(q, group), Groups.RANK[lane] * Groups.SPAN
  local from, to = Groups.digits(start), Groups.end_of(lane)
  if front then
    local first = redis.call('ZRANGEBYSCORE', key, from, to, 'WITHSCORES', 'LIMIT', 0, 1)
    return Groups.digits(math.min(tonumber(first[2]) or start + q.micros, start + q.micros) - 1)
  end
  local last = redis.call('ZREVRANGEBYSCORE', key, to, from, 'WITHSCORES', 'LIMIT', 0, 1)
  return Groups.digits(math.max((tonumber(last[2]) or 0) + 1, start + q.micros))
end

-- Puts a job into a group; one that is there keeps its place. Who calls it looks whether the group may have a
-- token. `is_empty`: the group is known to have no jobs.
function Groups.join(q, id, lane, group, front, is_empty)
  lane = lane or Keys.NORMAL
  local score = is_empty and Groups.digits(Groups.RANK[lane] * Groups.SPAN + q.micros)
    or Groups.score(q, group, lane, front)
  redis.call('ZADD', Keys.group(q, group), 'NX', score, id)
  redis.call('SADD', q.base .. Keys.WAITING, id)
end

-- The group in which a job waits; nil for none.
function Groups.of(job)
  local waits = job[Field.EXTRA] and job[Field.EXTRA].waits
  return waits and waits[1]
end

-- Takes a job out of a group, after its record was written: a claim passes over one that is left there. `group`
-- may be nil.
function Groups.leave(q, id, group)
  if not group then return end
  is_unreadable(redis.pcall('SREM', q.base .. Keys.WAITING, id))
  is_unreadable(redis.pcall('ZREM', Keys.group(q, group), id))
  if redis.call('EXISTS', Keys.group(q, group)) == 0 then Groups.unblock(q, group) end
end

-- Takes a job of a group to the end of another lane there.
function Groups.change_lane(q, id, lane, group)
  redis.call('ZADD', Keys.group(q, group), 'XX', Groups.score(q, group, lane, false), id)
end

-- Notes that a group has jobs that wait, and no token; or that it has one, or no jobs.
function Groups.block(q, group)
  is_unreadable(redis.pcall('SADD', Keys.blocked(q, Groups.limit_of(group)), Groups.key_of(group)))
end
function Groups.unblock(q, group)
  is_unreadable(redis.pcall('SREM', Keys.blocked(q, Groups.limit_of(group)), Groups.key_of(group)))
end

-- The first jobs of a group, of this lane and those that are served before it.
function Groups.first(q, group, lane, most)
  local ids = redis.pcall('ZRANGEBYSCORE', Keys.group(q, group), '-inf', Groups.end_of(lane), 'LIMIT', 0, most)
  return is_unreadable(ids) and {} or ids
end

function Groups.is_token(id) return string.byte(id) == Lanes.TAB end
-- The serial number of a token, its lane and its group.
function Groups.parts(token) return string.match(token, '^\t(%S+) (%S+) (.*)$') end

-- Whether the noted token of a group is in a lane; and its serial number.
function Groups.has_token(q, group, lane)
  local noted = redis.pcall('HGET', q.base .. Keys.TOKENS, lane .. ' ' .. group)
  if is_unreadable(noted) or not noted then return false end
  local serial, stream, entry = string.match(noted, '^(%S+) (%S+) (%S+)$')
  local found = serial and redis.pcall('XRANGE', Keys.lane(q, stream), entry, entry)
  return found and not is_unreadable(found) and found[1] ~= nil, serial
end

-- From now on tokens are gathered.
function Groups.gather_tokens(q) q.tokens = {} end

-- Takes the next group out of those that were gathered for a lane; nil for none.
function Groups.next_gathered(q, lane)
  for i = 1, #q.tokens, 2 do
    if q.tokens[i + 1] == lane then
      local group = table.remove(q.tokens, i)
      table.remove(q.tokens, i)
      Groups.unblock(q, group)
      return group
    end
  end
end

-- Gives the gathered tokens; returns whether there were any.
function Groups.give_gathered(q)
  local tokens = q.tokens
  q.tokens = nil
  for i = 1, #tokens, 2 do
    Groups.give_token(q, tokens[i], tokens[i + 1])
    Groups.unblock(q, tokens[i])
  end
  return tokens[1] ~= nil
end

-- Gives a group a token in a lane, if it has none there.
function Groups.give_token(q, group, lane)
  if q.tokens then
    local n = #q.tokens
    q.tokens[n + 1], q.tokens[n + 2] = group, lane
  elseif not Groups.has_token(q, group, lane) then
    q.serial = (q.serial or 0) + 1
    local serial = Groups.digits(q.micros) .. '.' .. q.serial
    Lanes.push(q, lane, '\t' .. serial .. ' ' .. lane .. ' ' .. group, false)
  end
end

-- Gives a group a token in each lane in which it has jobs; returns whether it has any.
function Groups.offer(q, group)
  local key = Keys.group(q, group)
  local first = redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')
  if is_unreadable(first) or not first[1] then return false end
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  for rank = math.floor(first[2] / Groups.SPAN), math.floor(last[2] / Groups.SPAN) do
    if Groups.LANES[rank + 1] then Groups.give_token(q, group, Groups.LANES[rank + 1]) end
  end
  return true
end

-- Forgets a token that a claim has met; returns whether it counts.
function Groups.spend(q, serial, group, lane)
  local noted = redis.pcall('HGET', q.base .. Keys.TOKENS, lane .. ' ' .. group)
  if is_unreadable(noted) then return true end
  if noted and string.match(noted, '^%S+') ~= serial and Groups.has_token(q, group, lane) then return false end
  redis.call('HDEL', q.base .. Keys.TOKENS, lane .. ' ' .. group)
  return true
end
