-- Reads the records of a list of jobs. Unlike `info`, it reads no more than the beginning of a call or result that
-- is in a key of its own, unless it is asked for, and no more jobs than a reply has room for.
--
-- NEEDS: keys, record, newer, shown
-- USES: reads body, job, scheduled
-- KEYS: 1 base key
-- ARGV: 1 'whole' if calls are to be read whole, else '', then job ids
-- REPLY: per job the fields and values of its record, see lib/shown.lua; empty for none, and for
--   one that was moved to another queue. If only the beginning of its
--   call or of its result was read, it is in the field 'call_head' or 'outcome_head'. Jobs at the end for which
--   there is no room are left out
--
-- No further job is read once the reply has this many bytes, so that it arrives in time over any network.
local LIST_LIMIT = 1048576
-- The bytes at the beginning of a call or of a result, in which its task's name is.
local HEAD = 1024
local whole_calls, reply, bytes = ARGV[1] == 'whole', {}, 0

-- Removes a value that is in a key of its own from the record; returns its beginning.
local function head_of(id, job, field)
  if job[field] ~= true then return nil end
  job[field] = false
  local head = redis.pcall('GETRANGE', Keys.body(q, id), 0, HEAD - 1)
  return not is_unreadable(head) and head or nil
end

for i = 2, #ARGV do
  if bytes >= LIST_LIMIT then break end
  local id, fields = ARGV[i], {}
  local job = Newer.read(q, id)
  if job and not Record.is_elsewhere(job) then
    if whole_calls then job[Field.JOB] = Record.whole(q, id, job[Field.JOB]) end
    local call, outcome = head_of(id, job, Field.JOB), head_of(id, job, Field.OUTCOME)
    fields = Shown.fields(q, id, job)
    if call then fields[#fields + 1], fields[#fields + 2] = 'call_head', call end
    if outcome then fields[#fields + 1], fields[#fields + 2] = 'outcome_head', outcome end
    bytes = bytes + #(job[Field.JOB] or call or '') + #(job[Field.OUTCOME] or outcome or '')
  end
  reply[#reply + 1] = fields
end
return reply
