-- Ends jobs whose record has vanished from the queue that they were moved to, so that nobody waits for them for
-- ever.
--
-- NEEDS: record, results, history, finish
-- USES: reads batch, body, bucket, flow, group, halted, holders, job, lanes, limits, schedule, scheduled,
--   standing, timers, tokens, unique; writes batch, blocked, body, bucket, counters, flowwork, group, history,
--   holders, idle, job, lanes, leftovers, outbox, schedule, scheduled, standing, stats, tasks, timers, tokens,
--   tombstone, unique, waiting, wakeable; publishes dispatched, waiter
-- KEYS: 1 base key
-- ARGV: 1 the other queue, 2 for how many ms after its send a job must be found, 3 the outcome, 4 how long to keep
--   it in ms, 5 `about` of lib/history.lua, 6 the error of 3 in words, then job ids
-- REPLY: the ids of the jobs that were ended
local limits, reply = {tombstone = tonumber(ARGV[2])}, {}
History.begin(q, ARGV[5], '', nil, nil, {[ARGV[3]] = ARGV[6]})
local function end_all()
  for i = 7, #ARGV do
    local job = Record.load(q, ARGV[i])
    if job and job[Field.STATE] == 'moved' and Record.move_of(job)[1] == ARGV[1] then
      Finish.finish(q, limits, ARGV[i], job, 'failed', ARGV[3], tonumber(ARGV[4]))
      reply[#reply + 1] = ARGV[i]
    end
  end
end
History.around(q, end_all)
Results.publish(q)
return reply
