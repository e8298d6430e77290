-- Result messages: they notify the waiting processes of outcomes.
--
-- NEEDS: msgpack
local Results = {}

-- The largest outcome in a result message, in bytes. Larger ones would fill a subscriber's output buffer; the
-- receivers fetch these from the server instead.
Results.MESSAGE_LIMIT = 65536

-- A call that notifies processes whose channels have more letters than this ends no further job. That is some
-- 4,000 processes, which takes the server 5 ms. 64 other processes for each of 500 jobs took 30 to 200 ms.
Results.NOTIFIED_LIMIT = 250000

-- The part of a result message for one job, and a message of `count` such parts.
function Results.entry(id, outcome) return BEGIN_STRING_32 .. struct.pack('>I4', #id) .. id .. outcome end
function Results.message(count, entries) return BEGIN_ARRAY_32 .. struct.pack('>I4', 2 * count) .. entries end

-- Publishes a result message to each waiting process; `waiters` are their channels.
function Results.send(waiters, message)
  for channel in string.gmatch(waiters, '%S+') do redis.call('PUBLISH', channel, message) end
end

-- Adds an outcome to the message for the processes that wait for it; `Results.publish` sends the messages at the
-- end of the call. Processes that wait for the same jobs get the same message, which is made once.
function Results.notify(q, id, waiters, outcome, keep)
  if not waiters then return end
  if #outcome > Results.MESSAGE_LIMIT and keep then outcome = NIL end
  q.messages = q.messages or {}
  local entries = q.messages[waiters]
  if not entries then
    entries = {}
    q.messages[waiters] = entries
    q.notified = (q.notified or 0) + #waiters
  end
  entries[#entries + 1] = Results.entry(id, outcome)
end
-- Whether this call notifies so many processes that it must end no further job.
function Results.is_full(q) return q.notified ~= nil and q.notified > Results.NOTIFIED_LIMIT end
function Results.publish(q)
  for waiters, entries in pairs(q.messages or {}) do
    Results.send(waiters, Results.message(#entries, table.concat(entries)))
  end
  q.messages = nil
end
