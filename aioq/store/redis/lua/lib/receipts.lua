-- Receipts: the reply of a call that has changed something. If the call is repeated because its reply was lost, it
-- gives the same reply again.
--
-- NEEDS: keys
local Receipts = {}

-- For how long a reply is kept, in ms. Far longer than needed: a call is repeated once, and at once.
Receipts.TTL = 60000

-- The reply of a call of this name, if it was carried out already.
function Receipts.found(q, call)
  local before = redis.call('GET', Keys.receipt(q, call))
  return before and cmsgpack.unpack(before)
end
function Receipts.keep(q, call, reply)
  redis.call('SET', Keys.receipt(q, call), cmsgpack.pack(reply), 'PX', Receipts.TTL)
end
