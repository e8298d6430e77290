-- Queues scheduled jobs that are due.
--
-- NEEDS: call, keys, record_text_read, record, lanes, due, foreign
-- KEYS: 1 base key
-- ARGV: 1 the most jobs in this step
-- REPLY: {how many were looked at, {ms until the next one is due, ms until the next tick} (-1 for none), the last job
--   whose record this version cannot read ('' for none)}
local due = redis.call('ZRANGEBYSCORE', q.base .. SCHEDULED, '-inf', q.now, 'LIMIT', 0, tonumber(ARGV[1]))
local texts, changed, done, foreign = texts_of(q, due), {}, {}, ''

-- Queues a job; false where a key of another type is in its lane's place: then it waits on, and keeps nobody else waiting.
local function push_one(lane, id)
  local pushed, problem = pcall(Lanes.push, q, lane, id, false)
  if pushed then return true end
  pass_over(problem)
  redis.call('ZADD', q.base .. SCHEDULED, q.now + PUT_OFF, id)
  return false
end

-- A job that is queued, or nobody's, was put off: by a worker that could not read its record, or could not queue it. It is
-- in no lane. Whether nothing is left to do with it here.
local function queue(id, job)
  local state = job[STATE]
  if state and state ~= 'scheduled' and not (state == 'running' and Foreign.is_orphan(q, job)) then return true end
  if not push_one(job[LANE], id) then return false end
  if state == 'scheduled' then
    job[STATE] = false
    changed[#changed + 1], changed[#changed + 2] = id, job
  end
  return true
end

-- What this version cannot read waits on, for a worker that does; one that may be queued is looked at by claims too.
local function pass_on(id, text)
  local state, lane = Foreign.state_of(q, id, text)
  if not state or STATES[state] == OUTCOME then return false end
  if state ~= 'scheduled' and state ~= 'waiting' then push_one(lane, id) end
  redis.call('ZADD', q.base .. SCHEDULED, q.now + PUT_OFF, id)
  foreign = id
  return true
end

for _, id in ipairs(due) do
  local job = unpacked(texts[id])
  if job and queue(id, job) or not job and not pass_on(id, texts[id]) then done[#done + 1] = id end
end
save_all(q, changed)
if #done > 0 then redis.call('ZREM', q.base .. SCHEDULED, unpack(done)) end
return {#due, next_due(q), foreign}
