-- Adds a job that is sent alone and is nothing special: for the normal lane, at once, under an id that nobody uses twice.
--
-- A script of its own, for a lone job needs little of what many may need, and all that a script defines costs each of its
-- calls.
--
-- NEEDS: base, record_text_write
-- KEYS: 1 base key
-- ARGV: 1 its id, 2 its envelope, no larger than BODY_LIMIT, 3 the channel of a process that will wait for it, '' for
--   none, 4 what the channels begin with on which workers are handed jobs
-- REPLY: 1 where it was added, 0 where there is a job with this id
local id, envelope, key = ARGV[1], ARGV[2], job_key(ARGV[1])
local watched = ARGV[3] ~= '' and packed(ARGV[3]) or nil

-- It is handed to a worker that waits, if there is one: so it need not be woken first and ask then.
local some_wait = redis.call('EXISTS', IDLE) == 1
if some_wait and redis.call('EXISTS', key) == 0 then
  -- Whether a worker can be handed a job: its lease has not ended, and it listens. That is asked before it is told, for
  -- in a cluster a message reaches those who listen at other nodes too, whom nobody counts here.
  local function takes_jobs(worker)
    local lease = redis.call('ZSCORE', WORKERS, worker)
    if not lease or tonumber(lease) <= now then return false end
    local listening = redis.pcall('PUBSUB', 'NUMSUB', ARGV[4] .. worker)
    return not listening.err and listening[2] > 0
  end

  -- Marks the job as a worker's own, as a claim would, and tells it. A worker that dies before it has heard of the job
  -- is recovered with all that it holds. Where it cannot be told, all is undone, but that it is handed nothing until it
  -- says again that it waits.
  local function hand_to(worker)
    local number = clock[1] * 1000000 + clock[2] -- of this claim, see lib/record.lua
    redis.call('ZADD', IDLE, HANDED, worker)
    redis.call('SADD', held_key(worker), id)
    redis.call('SET', key, first_run(envelope, watched, run_by(worker, RUNNING) .. cmsgpack.pack(number)))
    local told = redis.pcall('PUBLISH', ARGV[4] .. worker, string.format('%.0f %d ', number, #id) .. id .. envelope)
    if type(told) == 'number' and told > 0 then return true end
    redis.call('DEL', key)
    redis.call('SREM', held_key(worker), id)
    return false
  end

  local workers = redis.pcall('ZRANGEBYSCORE', IDLE, 0, '+inf', 'LIMIT', 0, 8)
  for _, worker in ipairs(workers) do
    if takes_jobs(worker) then
      if hand_to(worker) then return 1 end
      break
    end
  end
end

-- The record is written last, and where it cannot be, an entry without one is passed over.
local lane = base .. ':normal'
local entry = redis.call('XADD', lane, '*', 'job', id)
if some_wait then redis.call('UNLINK', IDLE) end
if redis.call('MSETNX', key, fresh(envelope, watched)) == 1 then return 1 end

-- NEEDS: common, record_text_read, record, dead
if give_up(id) then
  redis.call('SET', key, fresh(envelope, watched))
  return 1
end
redis.call('XDEL', lane, entry)
return 0
