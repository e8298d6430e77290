-- Moves jobs that wait to be run to another queue: they are put into the outbox, see lib/outbox.lua.
--
-- NEEDS: record, moves, groups, batches, rooms
-- USES: reads batch, bucket, flow, group, halted, holders, job, lanes, leftovers, limits, named, places,
--   scheduled, senders, standing, timers, tokens, unique, waiting; writes batch, blocked, bucket, flowwork, group,
--   holders, idle, job, lanes, leftovers, named, outbox, places, scheduled, senders, standing, timers, tokens,
--   unique, waiting, wakeable; publishes dispatched, room
-- KEYS: 1 base key
-- ARGV: 1 the other queue, then job ids
-- REPLY: per job the state it was in, '' for no such job, or for one that was moved to a third queue; only a
--   queued or a scheduled one was moved, and one that waits in a group
local target, reply = ARGV[1], {}
for i = 2, #ARGV do
  local job = Record.load(q, ARGV[i])
  if job then Batches.release(q, ARGV[i], job) end
  local state = job and (job[Field.STATE] or 'queued') or ''
  if state == 'queued' or state == 'scheduled' or job and Groups.of(job) then
    Moves.depart(q, ARGV[i], job, target)
  elseif job and Record.is_elsewhere(job) then
    -- The same call again, after a lost reply.
    state = Record.move_of(job)[1] == target and Record.move_of(job)[3] or ''
  end
  reply[i - 1] = state
end
Rooms.tell(q)
return reply
