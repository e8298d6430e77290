-- Restores the held set of a worker.
--
-- NEEDS: keys, record_text_write, record
local HeldSet = {}

-- The most ids of it that a claim checks for jobs that the worker does not know: more than any worker has slots.
HeldSet.CHECKED = 10000

-- Adds those of these jobs that a worker holds to its held set again. If that set is gone, because it was evicted
-- or deleted by hand, nobody could recover the jobs.
function HeldSet.restore(q, worker, ids)
  local mine = {}
  for id, job in pairs(Record.load_all(q, ids)) do
    if job[Field.STATE] == 'running' and job[Field.WORKER] == worker then mine[#mine + 1] = id end
  end
  for start = 1, #mine, CHUNK do
    redis.call('SADD', Keys.held(q, worker), unpack(mine, start, math.min(start + CHUNK - 1, #mine)))
  end
end
