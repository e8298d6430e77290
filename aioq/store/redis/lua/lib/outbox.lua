-- The outbox: what a queue sends to other queues of the App, which may be in other cluster slots.
--
-- Each target has a stream of entries. An entry is added in the same script as what causes it, and before the
-- record that needs it. Any worker of the queue, or whoever has caused it, relays entries: it reads some
-- (outbox_read.lua), applies them in the target (outbox_deliver.lua), and removes them (outbox_remove.lua). Each
-- step may be repeated.
--
-- The target notes the last entry of each source that it has applied (INBOX), and ignores earlier ones. So an
-- entry is applied once, however often and by however many workers it is delivered. The ids of a stream only grow,
-- so a stream without entries is kept for longer than that note: a new stream may begin with an id that was used
-- before, for they are times in ms. If the stream was evicted or deleted by hand, an entry may have an id that the
-- target has passed already. It says so, and if the entry was never delivered before, it gets a higher id
-- (`fresh`, in RELAYS).
--
-- The kinds of entries: `job` takes a job to the target, `ended` tells it that a job has ended here, `cancel`
-- cancels a job there. An entry names a job, and most take what they say from its record when they are read. If
-- the record does not fit any more, the entry is void: a script that has failed half-way may have left it.
--
-- NEEDS: call, keys, record, timers, lanes
local Outbox = {}

-- For how long a stream without entries is kept, in ms: longer than INBOX is after the last delivery.
Outbox.EMPTY_TTL = 90000000

-- Adds an entry, and returns its id. One worker is woken if it is not known when the next timer is due. That is
-- done once a call for a target.
function Outbox.add(q, target, kind, id, data)
  local key = Keys.outbox(q, target)
  local function append() return redis.call('XADD', key, '*', 'kind', kind, 'id', id, 'data', data or '') end
  q.sent_to = q.sent_to or {}
  if q.sent_to[target] then return append() end
  local head = redis.call('ZRANGE', q.base .. Keys.SCHEDULED, 0, 0, 'WITHSCORES')
  local set = redis.pcall('ZADD', q.base .. Keys.TIMERS, 'NX', q.now, Timer.RELAY .. ' ' .. target)
  if not is_unreadable(set) and set == 1 then
    redis.call('ZADD', q.base .. Keys.SCHEDULED, 'LT', q.now, Timer.FIRST)
    if not head[1] or q.now < tonumber(head[2]) then Lanes.push(q, Keys.NORMAL, '', false) end
  end
  local entry = append()
  redis.call('PERSIST', key)
  q.sent_to[target] = true
  return entry
end

-- What tells a job from another one that has its id: its send.
function Outbox.send_of(job) return string.format('%.0f ', job[Field.SENT]) .. (job[Field.NONCE] or '') end

-- The fields of an entry.
function Outbox.fields_of(entry)
  local found = {}
  for i = 1, #entry[2], 2 do found[entry[2][i]] = entry[2][i + 1] end
  return found.kind, found.id, found.data
end

-- Forgets a target once there is no entry for it; returns whether there is none.
function Outbox.clear(q, target)
  local key = Keys.outbox(q, target)
  if redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1] then return false end
  redis.call('PEXPIRE', key, Outbox.EMPTY_TTL)
  redis.call('HDEL', q.base .. Keys.RELAYS, target)
  is_unreadable(redis.pcall('ZREM', q.base .. Keys.TIMERS, Timer.RELAY .. ' ' .. target))
  return true
end

-- Keeps other workers from relaying to a target for some ms.
function Outbox.hold(q, target, ms)
  is_unreadable(redis.pcall('ZADD', q.base .. Keys.TIMERS, q.now + ms, Timer.RELAY .. ' ' .. target))
end
