-- How jobs are queued. A lane is three streams, because a stream can only be added to at its end: what was given
-- back (`front`), then what is left of entries that named more jobs than were taken (`rest`), then what was sent.
--
-- Jobs that are sent together share entries: one of an entry's own for each would cost most of a send, and a third
-- of a claim. An entry names one job (`job` id) or several ids of equal length: what they all begin with, how many
-- bytes each has after that, and these, one after the other (`prefix`, `width`, `ids`).
--
-- NEEDS: keys
local Lanes = {}

-- Where a key of another type is in the place of a lane's front, what is given back goes to another of its
-- streams.
function Lanes.push_front(q, lane, id)
  local added
  for _, stream in ipairs({front_of(lane), lane, rest_of(lane)}) do
    added = redis.pcall('XADD', lane_key(q, stream), '*', 'job', id)
    if type(added) ~= 'table' or not string.find(added.err, 'WRONGTYPE', 1, true) then break end
  end
  if type(added) == 'table' and added.err then error(added.err) end
end
function Lanes.push(q, lane, id, front)
  lane = lane or NORMAL
  if front then Lanes.push_front(q, lane, id) else redis.call('XADD', lane_key(q, lane), '*', 'job', id) end
  redis.call('UNLINK', q.base .. IDLE)
end

-- The most jobs of one entry: each claim that takes some of them writes the others anew.
local SHARING = 64

-- Queues jobs whose ids all begin with `prefix` and have `width` bytes after that, which are `ends`; the entries' ids.
function Lanes.push_alike(q, lane, prefix, width, ends)
  local key, entries = lane_key(q, lane), {}
  for start = 1, #ends, SHARING * width do
    local some = string.sub(ends, start, start + SHARING * width - 1)
    entries[#entries + 1] = redis.call('XADD', key, '*', 'prefix', prefix, 'width', width, 'ids', some)
  end
  redis.call('UNLINK', q.base .. IDLE)
  return entries
end

-- The ids from `first` on that one entry can hold: what they all begin with, what they end with, and the last of them.
-- Ids that aioq has drawn together differ in their last four letters only.
function Lanes.alike(ids, first)
  local length, last = #ids[first], math.min(#ids, first + SHARING - 1)
  local shared = math.max(length - 4, 0)
  local prefix, ends, n = string.sub(ids[first], 1, shared), {}, first
  if first < last and string.sub(ids[first + 1], 1, shared) ~= prefix then shared, prefix = 0, '' end
  while n <= last and #ids[n] == length and string.sub(ids[n], 1, shared) == prefix do
    ends[#ends + 1] = string.sub(ids[n], shared + 1)
    n = n + 1
  end
  return prefix, table.concat(ends), n - 1
end

-- Queues several jobs, those from `first` on, in a stream such as `normal` or `normal:rest`.
function Lanes.push_all(q, stream, ids, first)
  if first > #ids then return end
  local key = lane_key(q, stream)
  while first <= #ids do
    local prefix, ends, last = Lanes.alike(ids, first)
    -- Letters of more than one byte are not cut in two.
    if last > first and not string.find(prefix .. ends, '[\128-\255]') then
      redis.call('XADD', key, '*', 'prefix', prefix, 'width', #ids[first] - #prefix, 'ids', ends)
    else
      last = first
      redis.call('XADD', key, '*', 'job', ids[first])
    end
    first = last + 1
  end
  redis.call('UNLINK', q.base .. IDLE)
end

-- Schedules a job whose record is still to say so. When it is due before all others, an entry without a job wakes one
-- worker, who learns of it.
function Lanes.schedule(q, id, due, lane)
  local head = redis.call('ZRANGE', q.base .. SCHEDULED, 0, 0, 'WITHSCORES')
  redis.call('ZADD', q.base .. SCHEDULED, due, id)
  if not head[1] or due < tonumber(head[2]) then Lanes.push(q, lane, '', false) end
end
