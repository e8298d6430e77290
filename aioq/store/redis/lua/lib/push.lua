-- How jobs that were sent are queued; see lib/lanes.lua.
--
-- NEEDS: base

-- The most jobs of one entry: each claim that takes some of them writes the others anew.
local SHARING = 64

-- Queues jobs whose ids all begin with `prefix` and have `width` bytes after that, which are `ends`; the entries' ids.
local function push_alike(lane, prefix, width, ends)
  local entries = {}
  for start = 1, #ends, SHARING * width do
    local some = string.sub(ends, start, start + SHARING * width - 1)
    entries[#entries + 1] = redis.call('XADD', lane, '*', 'prefix', prefix, 'width', width, 'ids', some)
  end
  redis.call('UNLINK', IDLE)
  return entries
end
