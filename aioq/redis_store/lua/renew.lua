-- Takes or prolongs a worker's lease.
--
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 lease in ms, 3 '1' to join as a new worker
-- REPLY: {-2} when the lease is lost; else ms until the next scheduled job (-1 for none), 1 if some worker's
--   lease has ended, and the ids of this worker's jobs whose cancellation was asked for
local worker = ARGV[1]
if ARGV[3] == '1' then
  for _, name in ipairs(LANES) do
    local made = redis.pcall('XGROUP', 'CREATE', base .. ':' .. name, GROUP, '0', 'MKSTREAM')
    if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then error(made.err) end
  end
elseif lease_lost(worker) then
  return {-2}
end
redis.call('ZADD', WORKERS, now + tonumber(ARGV[2]), worker)
local reply = {next_due(), redis.call('ZCOUNT', WORKERS, '-inf', '(' .. now) > 0 and 1 or 0}
for _, id in ipairs(redis.call('SMEMBERS', cancel_key(worker))) do reply[#reply + 1] = id end
return reply
