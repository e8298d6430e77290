-- Queues scheduled jobs that are due.
--
-- NEEDS: base, common, shapes, runs, records, push, lanes, foreign
-- KEYS: 1 base key
-- ARGV: 1 the most jobs in this step
-- REPLY: {how many were looked at, {ms until the next one is due, ms until the next tick} (-1 for none), the last job
--   whose record this version cannot read ('' for none)}
local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))
local texts, changed, done, foreign = texts_of(due), {}, {}, ''

-- A job that is queued, or nobody's, was put off by a worker that could not read its record: it is in no lane.
local function queue(id, job)
  local state = job[STATE]
  if state == 'scheduled' then
    push(job[LANE], id, false)
    job[STATE] = false
    changed[#changed + 1], changed[#changed + 2] = id, job
  elseif not state or state == 'running' and is_orphan(job) then
    push(job[LANE], id, false)
  end
end

-- What this version cannot read waits on, for a worker that does; one that may be queued is looked at by claims too.
local function pass_on(id, text)
  local state, lane = foreign_state(id, text)
  if not state or STATES[state] == OUTCOME then return false end
  if state ~= 'scheduled' and state ~= 'waiting' then push(lane, id, false) end
  redis.call('ZADD', SCHEDULED, now + PUT_OFF, id)
  foreign = id
  return true
end

for _, id in ipairs(due) do
  local job = unpacked(texts[id])
  if job then queue(id, job) end
  if job or not pass_on(id, texts[id]) then done[#done + 1] = id end
end
save_all(changed)
if #done > 0 then redis.call('ZREM', SCHEDULED, unpack(done)) end
return {#due, next_due(), foreign}
