-- How processes that wait are told.
--
-- NEEDS: base
-- A notice larger than this would fill a subscriber's output buffer; its receivers ask for the outcome instead.
local NOTICE_LIMIT = 65536
local NIL = '\192'

local function u32(n)
  local low = n % 65536
  local high = (n - low) / 65536
  return string.char(math.floor(high / 256), high % 256, math.floor(low / 256), low % 256)
end

-- Outcomes gathered by waiting process, published together at the end.
local notices = {}
local function notify(id, waiters, outcome, keep)
  if not waiters then return end
  if #outcome > NOTICE_LIMIT and keep then outcome = NIL end
  for channel in string.gmatch(waiters, '%S+') do
    local notice = notices[channel]
    if not notice then
      notice = {}
      notices[channel] = notice
    end
    notice[#notice + 1] = '\219' .. u32(#id) .. id
    notice[#notice + 1] = outcome
  end
end
local function publish()
  for channel, notice in pairs(notices) do
    redis.call('PUBLISH', channel, '\221' .. u32(#notice) .. table.concat(notice))
  end
end
