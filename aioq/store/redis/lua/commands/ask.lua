-- Asks a worker for something, or returns its answer. The request stays until the worker has answered; each call
-- tells it again, because a message may be lost.
--
-- NEEDS: keys
-- USES: reads answer, workers; writes cancel; publishes worker
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 the request, 3 'ask', or 'withdraw' to take it back
-- REPLY: {1, the answer}; {0} if there is none yet; {-1} if the worker is not registered
local asked = '\n' .. ARGV[2]
if ARGV[3] == 'withdraw' then
  redis.call('SREM', Keys.cancel(q, ARGV[1]), asked)
  return {0}
end
local answer = redis.call('GET', Keys.answer(q, string.match(ARGV[2], '^[^\n]*')))
if answer then return {1, answer} end
local lease = redis.call('ZSCORE', q.base .. Keys.WORKERS, ARGV[1])
if not lease or tonumber(lease) == 0 then return {-1} end -- 0 while it is recovered
redis.call('SADD', Keys.cancel(q, ARGV[1]), asked)
redis.call('PUBLISH', Keys.worker_channel(q, ARGV[1]), '\n')
return {0}
