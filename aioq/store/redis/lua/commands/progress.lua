-- Stores the progress of running jobs, behind the same fence as a settle.
--
-- NEEDS: record, events
-- USES: reads body, counters, job, listening; writes counters, events, job
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 the marks of lib/events.lua, '' for none, then three per job: id, claim, encoded progress
-- REPLY: the positions (from 1) of the reports that were refused
local refused, ids, changed, reported, tasks = {}, {}, {}, {}, {}
for i = 3, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
local jobs, is_recorded = Record.load_all(q, ids), Events.are_recorded(q, ARGV[2])
for i = 3, #ARGV, 3 do
  local id = ARGV[i]
  local job = jobs[id]
  if Record.is_run_by(job, ARGV[1], ARGV[i + 1]) then
    Record.widen(job, Field.PROGRESS)
    job[Field.PROGRESS] = ARGV[i + 2]
    changed[#changed + 1], changed[#changed + 2] = id, job
    if is_recorded then reported[#reported + 1], tasks[#tasks + 1] = id, History.task_of(q, id, job) end
  else
    refused[#refused + 1] = i / 3
  end
end
Record.save_all(q, changed)
Events.add(q, 'p', ARGV[1], reported, tasks)
return refused
