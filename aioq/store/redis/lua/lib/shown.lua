-- What is shown of a job's record.
--
-- NEEDS: keys, record
local Shown = {}

-- The fields and values of a job's record: those that it has, of the first nineteen; then, if it has EXTRA, 'tags'
-- and 'expires' (0 for never), and 'unique', its key, if it has one; 'log', its failed attempts, packed; and
-- 'due', if it is scheduled. If it was moved to another queue, 'queue' comes first with its name, and the state is
-- the one in which it was moved, until it has ended there.
function Shown.fields(q, id, job)
  local names = {
    'job', 'sent', 'lane', 'nonce', 'state', 'worker', 'claim', 'started', 'outcome', 'ended', 'waiters',
    'attempts', 'crashes', 'interruptions', 'progress', 'cancel', 'cancel_ttl', 'parked', 'ttl',
  }
  local fields, move = {}, Record.move_of(job)
  if move then fields[1], fields[2] = 'queue', move[1] end
  if Record.is_elsewhere(job) then job[Field.STATE] = move[3] end
  for field, name in ipairs(names) do
    if job[field] then fields[#fields + 1], fields[#fields + 2] = name, job[field] end
  end
  if job[Field.EXTRA] then
    local tags, expires, n = job[Field.EXTRA].tags, job[Field.EXTRA].expires, #fields
    fields[n + 1], fields[n + 2] = 'tags', tags or {}
    fields[n + 3], fields[n + 4] = 'expires', expires and expires[1] or 0
    local lock = job[Field.EXTRA].unique
    if lock then fields[n + 5], fields[n + 6] = 'unique', lock[1] end
  end
  local log = job[Field.ATTEMPT_LOG]
  if log then fields[#fields + 1], fields[#fields + 2] = 'log', cmsgpack.pack(log) end
  local due = redis.pcall('ZSCORE', q.base .. Keys.SCHEDULED, id)
  if move and move[4] > 0 and not Record.has_ended(job) then due = string.format('%.0f', move[4]) end
  if due and not is_unreadable(due) then fields[#fields + 1], fields[#fields + 2] = 'due', due end
  return fields
end
