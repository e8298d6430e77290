-- Reads job records.
--
-- NEEDS: record, newer, shown
-- USES: reads body, job, scheduled
-- KEYS: 1 base key
-- ARGV: job ids
-- REPLY: per job the fields and values of its record, see lib/shown.lua; empty for none
local reply = {}
for i = 1, #ARGV do
  local id, fields = ARGV[i], {}
  local job = Newer.read(q, id)
  if job then
    job[Field.JOB] = Record.whole(q, id, job[Field.JOB])
    if job[Field.OUTCOME] then job[Field.OUTCOME] = Record.whole(q, id, job[Field.OUTCOME]) end
    fields = Shown.fields(q, id, job)
  end
  reply[i] = fields
end
return reply
