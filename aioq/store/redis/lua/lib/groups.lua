-- Groups of jobs that wait together, each for what its group is limited by: see lib/limits.lua.
--
-- A group has a name, such as `customer:7`: what stands before the first colon is the limit, the rest is the key.
-- The jobs of a group that wait are in no lane but in a sorted set: first those of the lane `high`, then `normal`,
-- then `low`; within a lane in the order in which they came. A group of which a job may run has a token in the
-- lane of its first job: an entry like that of a job, whose id begins with a tab, which no id does. So a group
-- takes its turn among the jobs of a lane, whoever meets the token takes as many jobs as may run, and the entry
-- wakes one worker, as any other does. If there are more that may run, a new token goes to the end of the lane.
-- A group of which no job may run has no token, and costs nothing until something changes.
--
-- TOKENS notes the entry that has a token, by lane and group. So whoever gives a group a token looks whether that
-- entry is there; an entry that was claimed is not noted any more. A token has a serial number, and one that is
-- met counts only if it is the noted one, or the noted one is gone: so there is one in the end, whatever was lost.
-- While a claim runs, tokens are gathered in `q.tokens`, because the claim might meet them itself.
-- A settle and an enqueue gather them too: so those of many groups share entries, and are noted by one command.
-- Meanwhile what is noted of groups without a token is gathered in `q.marks`.
--
-- NEEDS: call, keys, record_text_write, record, lanes
local Groups = {}

Groups.LANES = {'high', 'normal', 'low'}
Groups.RANK = {high = 0, normal = 1, low = 2}
-- How far the scores of two lanes are apart: a score is the rank of the lane times this, and a time in µs. So
-- scores stay below 2^53 until the year 2065.
Groups.SPAN = 3000000000000000
-- What is below the scores of the next lane.
Groups.ENDS = {high = '(3000000000000000', normal = '(6000000000000000', low = '(9000000000000000'}

function Groups.limit_of(group) return string.match(group, '^[^:]*') end
function Groups.key_of(group) return string.match(group, ':(.*)$') or '' end
-- A number of sixteen digits as a server takes it: Lua's own way keeps fourteen.
function Groups.digits(number) return string.format('%.0f', number) end

-- The score of a job that comes to a group: after all others of its lane, or before them.
function Groups.score(q, group, lane, front)
  local key, start = Keys.group(q, group), Groups.RANK[lane] * Groups.SPAN
  local from, to = Groups.digits(start), Groups.ENDS[lane]
  if front then
    local first = redis.call('ZRANGEBYSCORE', key, from, to, 'WITHSCORES', 'LIMIT', 0, 1)
    return Groups.digits(math.min(tonumber(first[2]) or start + q.micros, start + q.micros) - 1)
  end
  local last = redis.call('ZREVRANGEBYSCORE', key, to, from, 'WITHSCORES', 'LIMIT', 0, 1)
  return Groups.digits(math.max((tonumber(last[2]) or 0) + 1, start + q.micros))
end

-- Puts a job into a group; one that is there keeps its place. Returns whether the group was empty. Who calls it
-- looks whether the group may have a token.
function Groups.join(q, id, lane, group, front)
  lane = lane or Keys.NORMAL
  if q.joined then q.joined[group] = true end
  local key, start = Keys.group(q, group), Groups.RANK[lane] * Groups.SPAN
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
  local at = last and tonumber(last) - start
  local score
  if front and last or at and at >= Groups.SPAN then
    score = Groups.score(q, group, lane, front)
  else
    score = Groups.digits(start + math.max(at and at + 1 or 0, q.micros))
  end
  redis.call('ZADD', key, 'NX', score, id)
  if q.waits then q.waits[#q.waits + 1] = id else redis.call('SADD', q.base .. Keys.WAITING, id) end
  return not last
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

-- The same of the jobs of a claim, which are gone, without their list.
function Groups.remove(q, group, ids)
  if not ids[2] then return ids[1] and redis.call('ZREM', Keys.group(q, group), ids[1]) end
  in_chunks(ids, function(...) redis.call('ZREM', Keys.group(q, group), ...) end)
end

-- Takes a job of a group to the end of another lane there.
function Groups.change_lane(q, id, lane, group)
  redis.call('ZADD', Keys.group(q, group), 'XX', Groups.score(q, group, lane, false), id)
end

-- Notes that a group has jobs that wait, and no token; or that it has one, or no jobs.
function Groups.block(q, group)
  if q.marks then q.marks[group] = true else Groups.write_marks(q, {[group] = true}) end
end
function Groups.unblock(q, group)
  if q.marks then q.marks[group] = false else Groups.write_marks(q, {[group] = false}) end
end

-- Writes that, as it is in a map by group, a limit at a time.
function Groups.write_marks(q, marks)
  local keys = {SADD = {}, SREM = {}}
  for group, is_blocked in pairs(marks) do
    local of_limits, limit, key = keys[is_blocked and 'SADD' or 'SREM'], string.match(group, '^([^:]*):?(.*)$')
    local of_limit = of_limits[limit] or {}
    of_limits[limit], of_limit[#of_limit + 1] = of_limit, key
  end
  for command, of_limits in pairs(keys) do
    for limit, those in pairs(of_limits) do
      in_chunks(those, function(...) is_unreadable(redis.pcall(command, Keys.blocked(q, limit), ...)) end)
    end
  end
end

-- Writes what was gathered of it.
function Groups.flush_marks(q)
  if not q.marks or next(q.marks) == nil then return end
  Groups.write_marks(q, q.marks)
  q.marks = {}
end

-- The first jobs of a group, of this lane and those that are served before it; and whether there are others of
-- these lanes.
function Groups.first(q, group, lane, most)
  local key, count = Keys.group(q, group), most == 1 and '2' or most + 1 -- a number is slow to pass
  local ids = redis.pcall('ZRANGEBYSCORE', key, '-inf', Groups.ENDS[lane], 'LIMIT', '0', count)
  if is_unreadable(ids) then return {}, false end
  local has_more = #ids > most
  ids[most + 1] = nil
  return ids, has_more
end

-- The serial number of a token, its lane, its group and the limit of that; nil if it is malformed.
function Groups.parts(token)
  local serial, lane, group, limit = string.match(token, '^\t(%S+) (%S+) (([^:]*).*)$')
  if Groups.RANK[lane] then return serial, lane, group, limit end
end

-- What is noted of the tokens of these places, each of which is a lane and a group: false for nothing.
function Groups.noted(q, places)
  local noted = {}
  in_chunks(places, function(...)
    local found = redis.pcall('HMGET', q.base .. Keys.TOKENS, ...)
    if is_unreadable(found) then found = {} end
    for i = 1, select('#', ...) do noted[#noted + 1] = found[i] or false end
  end)
  return noted
end

-- Whether the entry that is noted of a token is there. An enqueue, which deletes none, remembers that in
-- `q.there`: an entry may have many tokens.
function Groups.is_there(q, noted)
  local place, stream, entry = string.match(noted or '', '^%S+ ((%S+) (%S+))$')
  if not place then return false end
  if q.there and q.there[place] ~= nil then return q.there[place] end
  local found = redis.pcall('XRANGE', Keys.lane(q, stream), entry, entry)
  local is_there = not is_unreadable(found) and found[1] ~= nil
  if q.there then q.there[place] = is_there end
  return is_there
end

-- Whether the noted token of a group is in a lane.
function Groups.has_token(q, group, lane)
  return Groups.is_there(q, Groups.noted(q, {lane .. ' ' .. group})[1])
end

-- From now on tokens are gathered, and what is noted of groups without one.
function Groups.gather_tokens(q) q.tokens, q.marks = {}, {} end

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
  if tokens[1] then Groups.give_tokens(q, tokens) end
  for i = 1, #tokens, 2 do Groups.unblock(q, tokens[i]) end
  Groups.flush_marks(q)
  q.marks = nil
  return tokens[1] ~= nil
end

-- Gives a group a token in a lane, if it has none there.
function Groups.give_token(q, group, lane)
  if not q.tokens then return Groups.give_tokens(q, {group, lane}) end
  local n = #q.tokens
  q.tokens[n + 1], q.tokens[n + 2] = group, lane
end

-- The same of many, given as groups and lanes in turn.
function Groups.give_tokens(q, tokens)
  local places, are_new, of_lanes = {}, {}, {}
  for i = 1, #tokens, 2 do places[#places + 1] = tokens[i + 1] .. ' ' .. tokens[i] end
  local noted, begin = Groups.noted(q, places), '\t' .. Groups.digits(q.micros) .. '.'
  for i, place in ipairs(places) do
    if are_new[place] == nil then
      are_new[place] = not noted[i] or not Groups.is_there(q, noted[i])
      if are_new[place] then
        local lane = tokens[2 * i]
        q.serial = (q.serial or 0) + 1
        of_lanes[lane] = of_lanes[lane] or {}
        table.insert(of_lanes[lane], begin .. q.serial .. ' ' .. place)
      end
    end
  end
  for _, lane in ipairs(Groups.LANES) do
    if of_lanes[lane] then Lanes.push_all(q, lane, of_lanes[lane], 1) end
  end
end

-- The first job of a group and its score; empty if it has none.
function Groups.head(q, group)
  local first = redis.pcall('ZRANGE', Keys.group(q, group), '0', '0', 'WITHSCORES')
  return is_unreadable(first) and {} or first
end

-- Gives a group a token in the lane of its first job, which is as of `head`.
function Groups.offer(q, group, first)
  local lane = Groups.LANES[math.floor(first[2] / Groups.SPAN) + 1]
  if lane then Groups.give_token(q, group, lane) end
end

-- Whether a token that a claim has met counts; `noted` is what is noted of its place.
function Groups.counts(q, serial, noted)
  return not noted or string.sub(noted, 1, #serial + 1) == serial .. ' ' or not Groups.is_there(q, noted)
end

-- Forgets the tokens of these places, which a claim has met.
function Groups.forget(q, places)
  in_chunks(places, function(...) is_unreadable(redis.pcall('HDEL', q.base .. Keys.TOKENS, ...)) end)
end
