-- What a worker holds.
--
-- NEEDS: keys, record_text_write, record

-- Notes once more which of these jobs a worker holds. Where that note has vanished, evicted or deleted by hand, no worker could
-- recover them.
local function hold_again(q, worker, ids)
  local mine = {}
  for id, job in pairs(load_all(q, ids)) do
    if job[STATE] == 'running' and job[WORKER] == worker then mine[#mine + 1] = id end
  end
  for start = 1, #mine, CHUNK do
    redis.call('SADD', held_key(q, worker), unpack(mine, start, math.min(start + CHUNK - 1, #mine)))
  end
end
