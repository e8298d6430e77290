-- Takes or prolongs a worker's lease, and notes when the worker last got an answer to its fetching: a worker whose
-- lease holds is alive, one that fetches does its work.
--
-- NEEDS: base, common
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 lease in ms, 3 how many ms ago it last fetched, 4 'join' to come as a new worker, 'sweep' to
--   look after consumers that no worker answers for, '' for neither
-- REPLY: {-2} when the lease is lost; else {ms until the next scheduled job, ms until the next tick} (-1 for
--   none), 1 if some worker's lease has ended, 1 if this worker's own had (and is renewed now), and the ids of this
--   worker's jobs whose cancellation was asked for
local worker, mode = ARGV[1], ARGV[4]
local ended = 0
if mode == 'join' then
  for _, name in ipairs(LANES) do
    local made = redis.pcall('XGROUP', 'CREATE', base .. ':' .. name, GROUP, '0', 'MKSTREAM')
    local is_there = made.err and string.find(made.err, 'BUSYGROUP', 1, true)
    if not is_there then is_unreadable(made) end -- a lane that is none keeps nobody from the others
  end
elseif lease_lost(worker) then
  return {-2}
elseif tonumber(redis.call('ZSCORE', WORKERS, worker)) < now then
  ended = 1
end
redis.call('ZADD', WORKERS, now + tonumber(ARGV[2]), worker)
redis.call('ZADD', FETCHED, now - tonumber(ARGV[3]), worker)

-- The server delivers to a read that is still blocked after its worker was recovered, and so makes the consumer
-- anew. What was delivered that way is given to the recovery; a consumer with nothing is deleted. A lane that is gone,
-- or its group, has none; the next claim makes it anew.
if mode ~= '' then
  for _, name in ipairs(LANES) do
    local consumers = redis.pcall('XINFO', 'CONSUMERS', base .. ':' .. name, GROUP)
    for _, fields in ipairs(consumers.err and {} or consumers) do
      local consumer, pending = fields[2], fields[4]
      if not redis.call('ZSCORE', WORKERS, consumer) then
        if pending > 0 then
          redis.call('ZADD', WORKERS, RECOVERING, consumer)
        else
          redis.call('XGROUP', 'DELCONSUMER', base .. ':' .. name, GROUP, consumer)
        end
      end
    end
  end
end

local reply = {next_due(), redis.call('ZCOUNT', WORKERS, '-inf', '(' .. now) > 0 and 1 or 0, ended}
for _, id in ipairs(redis.call('SMEMBERS', cancel_key(worker))) do reply[#reply + 1] = id end
return reply
