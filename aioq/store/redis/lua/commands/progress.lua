-- Stores the progress of running jobs, behind the same fence as a settle.
--
-- NEEDS: record
-- USES: reads job; writes job
-- KEYS: 1 base key
-- ARGV: 1 worker, then three per job: id, claim, encoded progress
-- REPLY: the positions (from 1) of the reports that were refused
local refused, ids, changed = {}, {}, {}
for i = 2, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
local jobs = load_all(q, ids)
for i = 2, #ARGV, 3 do
  local job = jobs[ARGV[i]]
  if job and job[WORKER] == ARGV[1] and job[STARTED] == tonumber(ARGV[i + 1]) and job[STATE] == 'running' then
    widen(job, PROGRESS)
    job[PROGRESS] = ARGV[i + 2]
    changed[#changed + 1], changed[#changed + 2] = ARGV[i], job
  else
    refused[#refused + 1] = (i + 1) / 3
  end
end
save_all(q, changed)
return refused
