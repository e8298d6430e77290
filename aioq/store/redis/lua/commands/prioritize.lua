-- Moves jobs to another lane. A queued job goes to its end. Its entry in the lane where it was stays there, and a
-- claim skips it: the record names another lane.
--
-- NEEDS: keys, record, lanes, hooks
-- USES: reads job, scheduled, standing; writes idle, job, lanes, outbox, scheduled, standing, timers, wakeable;
--   publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 the lane, then job ids
-- REPLY: per job the state it was in, '' for no such job, or for one that was moved to another queue; one that has
--   ended stays as it is
local lane, reply = ARGV[1], {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local job = load(q, id)
  if job and is_elsewhere(job) then job = nil end
  if job and not has_ended(job) and (job[LANE] or NORMAL) ~= lane then
    if not job[STATE] then
      run_hooks(q, 'back', id, job, 'prioritize', q.now)
      Lanes.push(q, lane, id, false)
    end
    -- With NONCE it is not taken for a fresh record, whose lane a claim does not check.
    widen(job, NONCE)
    job[LANE] = lane ~= NORMAL and lane
    save(q, id, job)
  end
  reply[i - 1] = job and (job[STATE] or 'queued') or ''
end
return reply
