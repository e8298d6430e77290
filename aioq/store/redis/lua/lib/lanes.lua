-- How jobs are queued. A lane is three streams, because a stream can only be added to at its end: what was given
-- back (`front`), then what is left of entries that named more jobs than were taken (`rest`), then what was sent.
--
-- Jobs that are sent together share entries: one of an entry's own for each would cost most of a send, and a third
-- of a claim. An entry names one job (`job` id) or several ids of equal length: what they all begin with, how many
-- bytes each has after that, and these, one after the other (`prefix`, `width`, `ids`).
--
-- NEEDS: base, push
-- Where somebody has put a key of another type in the place of a lane's front, what is given back goes to another of its
-- streams.
local BEHIND_FRONT = {'', ':rest'}
local function push_front(lane, id)
  local added = redis.pcall('XADD', lane .. ':front', '*', 'job', id)
  for _, stream in ipairs(BEHIND_FRONT) do
    if type(added) ~= 'table' or not string.find(added.err, 'WRONGTYPE', 1, true) then break end
    added = redis.pcall('XADD', lane .. stream, '*', 'job', id)
  end
  if type(added) == 'table' and added.err then error(added.err) end
end
local function push(lane, id, front)
  lane = base .. ':' .. (lane or 'normal')
  if front then push_front(lane, id) else redis.call('XADD', lane, '*', 'job', id) end
  redis.call('UNLINK', IDLE)
end

-- The ids from `first` on that one entry can hold: what they all begin with, what they end with, and the last of them.
-- Ids that aioq has drawn together differ in their last four letters only.
local function alike(ids, first)
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
local function push_all(name, ids, first)
  if first > #ids then return end
  local lane = base .. ':' .. name
  while first <= #ids do
    local prefix, ends, last = alike(ids, first)
    -- Letters of more than one byte are not cut in two.
    if last > first and not string.find(prefix .. ends, '[\128-\255]') then
      redis.call('XADD', lane, '*', 'prefix', prefix, 'width', #ids[first] - #prefix, 'ids', ends)
    else
      last = first
      redis.call('XADD', lane, '*', 'job', ids[first])
    end
    first = last + 1
  end
  redis.call('UNLINK', IDLE)
end

-- Schedules a job whose record is still to say so. When it is due before all others, an entry without a job wakes one
-- worker, who learns of it.
local function schedule(id, due, lane)
  local head = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')
  redis.call('ZADD', SCHEDULED, due, id)
  if not head[1] or due < tonumber(head[2]) then push(lane, '', false) end
end
