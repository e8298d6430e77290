-- Queues jobs in lanes. A lane is three streams, because one can only append to a stream. They are served in this
-- order: jobs that were given back (`front`), jobs of entries that were taken only in part (`rest`), jobs as sent.
--
-- Jobs that are sent together share entries: an entry for each job would cost most of a send, and a third of a
-- claim; docs/design.md, "Jobs that are sent together share entries of a lane". An entry names one job (`job`: its
-- id) or several whose ids have equal lengths (`prefix`, `width`, `ids`): their common prefix, how many bytes each
-- id has after it, and these rests, joined.
--
-- A job that is cancelled, deleted, moved, put off or given another lane while it is queued leaves its entry,
-- because its record does not say which one that is; and of an entry that it shares with others nothing could be
-- deleted. A claim skips what was left. Until then it is counted, by lane, in LEFTOVERS: how many ids the lane's
-- entries name, the set aside ones included, beside those of its queued jobs. So what waits can be counted without
-- looking at records (count.lua). The number may be below zero for a moment: a claim also passes jobs that a timer
-- is about to end. It is a help for counting only. So its errors are ignored, and a script that fails half-way may
-- leave it wrong by some jobs, until a sweep finds the lane without entries (renew.lua).
--
-- An entry may have the token of a group in the place of a job's id: that begins with a tab, and is no queued job;
-- see lib/groups.lua. Tokens that are given together share entries too (`tokens`: a MessagePack array).
--
-- NEEDS: keys, standing
local Lanes = {}
Lanes.TAB = 9
-- The most jobs of one entry: each claim that takes only some of them writes the others again.
Lanes.SHARING = 64

-- Notes which entry has the token of a group; nothing for a job.
function Lanes.note_token(q, stream, entry, id)
  if string.byte(id) == Lanes.TAB then Lanes.note_tokens(q, stream, entry, {id}) end
end
function Lanes.note_tokens(q, stream, entry, tokens)
  local notes = {}
  for _, token in ipairs(tokens) do
    local serial, place = string.match(token, '^\t(%S+) (.*)$')
    if serial then
      local n = #notes
      notes[n + 1], notes[n + 2] = place, serial .. ' ' .. stream .. ' ' .. entry
    end
  end
  if notes[1] then redis.call('HSET', q.base .. Keys.TOKENS, unpack(notes)) end
end

-- Writes the tokens from position `first` on, up to the next job's id, to one entry; returns the position of the
-- last of them.
function Lanes.write_tokens(q, stream, ids, first)
  local some, n = {}, first
  while ids[n] and string.byte(ids[n]) == Lanes.TAB and n < first + Lanes.SHARING do
    some[#some + 1] = ids[n]
    n = n + 1
  end
  local field, value = 'job', some[1]
  if some[2] then field, value = 'tokens', cmsgpack.pack(some) end
  Lanes.note_tokens(q, stream, redis.call('XADD', Keys.lane(q, stream), '*', field, value), some)
  return n - 1
end

-- Queues a job that is given back. If the key of the lane's front holds another type, the job goes to another
-- stream of the lane.
function Lanes.push_front(q, lane, id)
  local added
  for _, stream in ipairs({Keys.front_of(lane), lane, Keys.rest_of(lane)}) do
    added = redis.pcall('XADD', Keys.lane(q, stream), '*', 'job', id)
    if type(added) ~= 'table' then
      Lanes.note_token(q, stream, added, id)
      return
    end
    if not string.find(added.err, 'WRONGTYPE', 1, true) then break end
  end
  error(added.err)
end
function Lanes.push(q, lane, id, front)
  lane = lane or Keys.NORMAL
  if front then
    Lanes.push_front(q, lane, id)
  else
    Lanes.note_token(q, lane, redis.call('XADD', Keys.lane(q, lane), '*', 'job', id), id)
  end
  Standing.added(q, 1, id == '' and 0 or 1)
end

-- Queues jobs whose ids are `prefix` and `width` bytes each of `ends`; returns the ids of the entries.
function Lanes.push_alike(q, lane, prefix, width, ends)
  local key, entries = Keys.lane(q, lane), {}
  for start = 1, #ends, Lanes.SHARING * width do
    local some = string.sub(ends, start, start + Lanes.SHARING * width - 1)
    entries[#entries + 1] = redis.call('XADD', key, '*', 'prefix', prefix, 'width', width, 'ids', some)
  end
  Standing.added(q, #entries, #ends / width)
  return entries
end

-- The ids from position `first` on that one entry can hold: returns their common prefix, their rests, joined, and
-- the position of the last one. Ids that aioq has made together differ in their last four letters only.
function Lanes.alike(ids, first)
  local length, last = #ids[first], math.min(#ids, first + Lanes.SHARING - 1)
  local shared = math.max(length - 4, 0)
  local prefix, ends, n = string.sub(ids[first], 1, shared), {}, first
  if first < last and string.sub(ids[first + 1], 1, shared) ~= prefix then shared, prefix = 0, '' end
  while n <= last and #ids[n] == length and string.sub(ids[n], 1, shared) == prefix do
    ends[#ends + 1] = string.sub(ids[n], shared + 1)
    n = n + 1
  end
  return prefix, table.concat(ends), n - 1
end

-- Adds the jobs from position `first` on to a stream, and wakes nobody; returns how many entries these are.
function Lanes.write_all(q, stream, ids, first)
  local key, entries = Keys.lane(q, stream), 0
  while first <= #ids do
    local last = first
    if string.byte(ids[first]) == Lanes.TAB then
      last = Lanes.write_tokens(q, stream, ids, first)
    else
      local prefix, ends, alike = Lanes.alike(ids, first)
      -- Ids with letters of more than one byte get entries of their own, so that no letter is cut in two.
      if alike > first and not string.find(prefix .. ends, '[\t\128-\255]') then
        redis.call('XADD', key, '*', 'prefix', prefix, 'width', #ids[first] - #prefix, 'ids', ends)
        last = alike
      else
        redis.call('XADD', key, '*', 'job', ids[first])
      end
    end
    first, entries = last + 1, entries + 1
  end
  return entries
end

-- Queues the jobs from position `first` on in a stream such as `normal` or `normal:rest`.
function Lanes.push_all(q, stream, ids, first)
  if first > #ids then return end
  Standing.added(q, Lanes.write_all(q, stream, ids, first), #ids - first + 1)
end

-- Schedules a job; the caller then writes its record. If the job is due before all others, an entry without a job
-- wakes one worker, which then learns of it.
function Lanes.schedule(q, id, due, lane)
  local head = redis.call('ZRANGE', q.base .. Keys.SCHEDULED, 0, 0, 'WITHSCORES')
  redis.call('ZADD', q.base .. Keys.SCHEDULED, due, id)
  if not head[1] or due < tonumber(head[2]) then Lanes.push(q, lane, '', false) end
end

-- So many more ids are left in a lane, or fewer.
function Lanes.leave(q, lane, count)
  lane = lane or Keys.NORMAL
  local left = redis.pcall('HINCRBY', q.base .. Keys.LEFTOVERS, lane, count)
  if left == 0 then redis.pcall('HDEL', q.base .. Keys.LEFTOVERS, lane) end
end

-- How many ids are left, by lane; nothing for none.
function Lanes.left(q)
  local fields, left = redis.pcall('HGETALL', q.base .. Keys.LEFTOVERS), {}
  if fields.err then return left end
  for i = 1, #fields, 2 do left[fields[i]] = math.max(0, tonumber(fields[i + 1]) or 0) end
  return left
end
