-- Reads job records.
--
-- NEEDS: keys, record, newer
-- USES: reads body, job, scheduled
-- KEYS: 1 base key
-- ARGV: job ids
-- REPLY: per job the fields and values of its record (empty for none). If it was moved to another queue, 'queue' comes
--   first with its name, and the state is the one in which it was moved, until it has ended there. If it has EXTRA, 'tags' and 'expires' (0
--   for never) follow with their values; if it is scheduled, 'due' follows with its time
local NAMES = {
  'job', 'sent', 'lane', 'nonce', 'state', 'worker', 'claim', 'started', 'outcome', 'ended', 'waiters', 'attempts',
  'crashes', 'interruptions', 'progress', 'cancel', 'cancel_ttl', 'parked', 'ttl',
}
local reply = {}
for i = 1, #ARGV do
  local id, fields = ARGV[i], {}
  local job = Newer.read(q, id)
  if job then
    local move = move_of(job)
    if move then fields[1], fields[2] = 'queue', move[1] end
    if is_elsewhere(job) then job[STATE] = move[3] end
    job[JOB] = whole(q, id, job[JOB])
    if job[OUTCOME] then job[OUTCOME] = whole(q, id, job[OUTCOME]) end
    for field, name in ipairs(NAMES) do
      if job[field] then fields[#fields + 1], fields[#fields + 2] = name, job[field] end
    end
    if job[EXTRA] then
      local tags, expires, n = job[EXTRA].tags, job[EXTRA].expires, #fields
      fields[n + 1], fields[n + 2], fields[n + 3], fields[n + 4] = 'tags', tags or {}, 'expires', expires and expires[1] or 0
    end
    local due = redis.call('ZSCORE', q.base .. SCHEDULED, id)
    if move and move[4] > 0 and not has_ended(job) then due = string.format('%.0f', move[4]) end
    if due then fields[#fields + 1], fields[#fields + 2] = 'due', due end
  end
  reply[i] = fields
end
return reply
