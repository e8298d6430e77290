-- How processes that wait are told.
--
-- NEEDS: base
-- A notice larger than this would fill a subscriber's output buffer; its receivers ask for the outcome instead.
local NOTICE_LIMIT = 65536
local NIL = '\192'

-- What a notice says of one job, and a notice of so many.
local function told_of(id, outcome) return '\219' .. struct.pack('>I4', #id) .. id .. outcome end
local function tell(channel, count, told)
  redis.call('PUBLISH', channel, '\221' .. struct.pack('>I4', 2 * count) .. told)
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
    notice[#notice + 1] = told_of(id, outcome)
  end
end
local function publish()
  for channel, notice in pairs(notices) do tell(channel, #notice, table.concat(notice)) end
end
