-- Reads the entries of lanes that a claim takes, deletes what is done with, and puts back what was not taken.
--
-- NEEDS: call, keys, lanes
local LaneReads = {}

-- Reads entries of a lane for a worker: new ones from '>' on, or those that were delivered to it from an id on.
function LaneReads.read(q, worker, lane, id, most)
  local got = redis.pcall('XREADGROUP', 'GROUP', Keys.GROUP, worker, 'COUNT', most, 'STREAMS', lane, id)
  if is_unreadable(got) then
    if string.find(got.err, 'WRONGTYPE', 1, true) then return {} end -- the blocking read logs this
    redis.call('XGROUP', 'CREATE', lane, Keys.GROUP, '0', 'MKSTREAM')
    return LaneReads.read(q, worker, lane, id, most)
  end
  return got and got[1] and got[1][2] or {}
end

-- Deletes entries that were delivered. Only pending entries have to stay, and they do so for a short time. Entries
-- that cannot be deleted now are deleted another time. What the claim itself has added meanwhile stays.
function LaneReads.trim(lane, last, is_empty)
  local pending = redis.pcall('XPENDING', lane, Keys.GROUP)
  if pending.err then return end
  if pending[1] > 0 then
    redis.pcall('XTRIM', lane, 'MINID', '~', pending[2])
  elseif is_empty then
    local time, number = string.match(last, '^(%d+)-(%d+)$')
    redis.pcall('XTRIM', lane, 'MINID', time .. '-' .. string.format('%.0f', number + 1))
  else
    redis.pcall('XTRIM', lane, 'MINID', '~', last)
  end
end

-- Puts back the jobs from position `first` on of entries that were taken only in part. They come before all others
-- of the lane, so they go to its `rest`. That is empty then, because it is always read to its end. In the front,
-- where each entry names one job, the group goes back, as if their entries had not been read: pushed to the front,
-- these jobs would come after others of it. `lasts` has the position of each entry's last job. Returns the last
-- entry that is done with, and whether the stream has others.
function LaneReads.put_back(q, name, ids, first, names, lasts)
  if first > #ids then return names[#names], false end
  if not Keys.is_front(name) then
    Lanes.push_all(q, Keys.rest_of(Keys.lane_of(name)), ids, first)
    return names[#names], Keys.is_rest(name)
  end
  local done = #names
  while done > 0 and lasts[done] >= first do done = done - 1 end
  if done > 0 and lasts[done] == first - 1 then
    redis.call('XGROUP', 'SETID', Keys.lane(q, name), Keys.GROUP, names[done])
    return names[done], true
  end
  for i = first, #ids do Lanes.push(q, Keys.lane_of(name), ids[i], true) end
  return names[#names], true
end
