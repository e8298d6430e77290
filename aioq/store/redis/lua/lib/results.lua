-- How processes that wait are told.
--
-- NEEDS: base
-- A notice larger than this would fill a subscriber's output buffer; its receivers ask for the outcome instead.
local NOTICE_LIMIT = 65536
local NIL = '\192'

-- What a notice says of one job, and a notice of so many.
local function told_of(id, outcome) return '\219' .. struct.pack('>I4', #id) .. id .. outcome end
local function notice_of(count, told) return '\221' .. struct.pack('>I4', 2 * count) .. told end

-- Outcomes gathered by the processes that wait for them, published together at the end: those that wait for the same jobs are
-- told the same, which is put together once.
local notices = {}
local function notify(id, waiters, outcome, keep)
  if not waiters then return end
  if #outcome > NOTICE_LIMIT and keep then outcome = NIL end
  local notice = notices[waiters]
  if not notice then
    notice = {}
    notices[waiters] = notice
  end
  notice[#notice + 1] = told_of(id, outcome)
end
local function publish()
  for waiters, notice in pairs(notices) do
    local message = notice_of(#notice, table.concat(notice))
    for channel in string.gmatch(waiters, '%S+') do redis.call('PUBLISH', channel, message) end
  end
end
