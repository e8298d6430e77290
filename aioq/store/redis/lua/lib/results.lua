-- Result messages: how waiting processes are notified of outcomes.
--
-- NEEDS: msgpack
local Results = {}

-- A result message larger than this would fill a subscriber's output buffer; its receivers ask for the outcome instead.
local MESSAGE_LIMIT = 65536

-- What a result message says of one job, and a message with so many of these.
function Results.entry(id, outcome) return BEGIN_STRING_32 .. struct.pack('>I4', #id) .. id .. outcome end
function Results.message(count, entries) return BEGIN_ARRAY_32 .. struct.pack('>I4', 2 * count) .. entries end

-- Publishes a result message to each process that waits.
function Results.send(waiters, message)
  for channel in string.gmatch(waiters, '%S+') do redis.call('PUBLISH', channel, message) end
end

-- Notes an outcome for the processes that wait for it; `Results.publish` tells them at the end of the call. Those that wait
-- for the same jobs get the same message, which is put together once.
function Results.notify(q, id, waiters, outcome, keep)
  if not waiters then return end
  if #outcome > MESSAGE_LIMIT and keep then outcome = NIL end
  q.messages = q.messages or {}
  local entries = q.messages[waiters]
  if not entries then
    entries = {}
    q.messages[waiters] = entries
  end
  entries[#entries + 1] = Results.entry(id, outcome)
end
function Results.publish(q)
  for waiters, entries in pairs(q.messages or {}) do
    Results.send(waiters, Results.message(#entries, table.concat(entries)))
  end
end
