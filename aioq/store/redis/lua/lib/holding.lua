-- What a worker holds.
--
-- NEEDS: base, common, record_text_write, record_text_read, record
-- Notes once more which of these jobs a worker holds. Where that note has vanished, evicted or deleted by hand, nobody could
-- recover them.
local function hold_again(worker, ids)
  local mine = {}
  for id, job in pairs(load_all(ids)) do
    if job[STATE] == 'running' and job[WORKER] == worker then mine[#mine + 1] = id end
  end
  for start = 1, #mine, CHUNK do
    redis.call('SADD', held_key(worker), unpack(mine, start, math.min(start + CHUNK - 1, #mine)))
  end
end
