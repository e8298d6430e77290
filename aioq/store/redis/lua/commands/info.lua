-- Reads job records.
--
-- NEEDS: keys, record, foreign
-- KEYS: 1 base key
-- ARGV: job ids
-- REPLY: per job the fields and values of its record (empty for none), followed by 'due' and the time it is due
--   where it is scheduled
local NAMES = {
  'job', 'sent', 'lane', 'nonce', 'state', 'worker', 'claim', 'started', 'outcome', 'ended', 'waiters', 'attempts',
  'crashes', 'interruptions', 'progress', 'cancel', 'cancel_ttl', 'parked', 'ttl',
}
local reply = {}
for i = 1, #ARGV do
  local id, fields = ARGV[i], {}
  local job = Foreign.look(q, id)
  if job then
    job[JOB] = whole(q, id, job[JOB])
    if job[OUTCOME] then job[OUTCOME] = whole(q, id, job[OUTCOME]) end
    for field, name in ipairs(NAMES) do
      if job[field] then fields[#fields + 1], fields[#fields + 2] = name, job[field] end
    end
    local due = redis.call('ZSCORE', q.base .. SCHEDULED, id)
    if due then fields[#fields + 1], fields[#fields + 2] = 'due', due end
  end
  reply[i] = fields
end
return reply
