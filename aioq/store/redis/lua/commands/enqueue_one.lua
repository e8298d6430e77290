-- Adds a job that is sent alone and is nothing special: for the normal lane, at once, under an id that nobody uses twice.
--
-- A script of its own, for a lone job has few arguments, none of which is to be taken apart, and goes to a worker that waits.
-- No dead job is in its way, for that takes an id that is used twice.
--
-- NEEDS: keys, msgpack, record_text_write
-- USES: reads idle, job, workers; writes held, idle, job, lanes; publishes handed
-- KEYS: 1 base key
-- ARGV: 1 its id, 2 its envelope, no larger than BODY_LIMIT, 3 the channel of a process that will wait for it, '' for
--   none
-- REPLY: 1 where it was added, 0 where there is a job with this id
-- The score in IDLE of a worker that was handed a job, and has not said since that it waits again.
local HANDED = -1
local id, envelope, key = ARGV[1], ARGV[2], job_key(q, ARGV[1])
local watched = ARGV[3] ~= '' and packed(ARGV[3]) or nil

-- It is handed to a worker that waits, if there is one: so it need not be woken first and ask then.
local some_wait = redis.call('EXISTS', q.base .. IDLE) == 1
if some_wait and redis.call('EXISTS', key) == 0 then
  -- Whether a worker can be handed a job: its lease has not ended, and it listens. That is asked before it is told, for
  -- in a cluster a message reaches those who listen at other nodes too, whom nobody counts here.
  local function takes_jobs(worker)
    local lease = redis.call('ZSCORE', q.base .. WORKERS, worker)
    if not lease or tonumber(lease) <= q.now then return false end
    local listening = redis.pcall('PUBSUB', 'NUMSUB', handed_channel(q, worker))
    return not listening.err and listening[2] > 0
  end

  -- Marks the job as a worker's own, as a claim would, and tells it. A worker that dies before it has heard of the job
  -- is recovered with all that it holds. Where it cannot be told, all is undone, but that it is handed nothing until it
  -- says again that it waits.
  local function hand_to(worker)
    local number = q.micros -- of this claim, see lib/record.lua
    redis.call('ZADD', q.base .. IDLE, HANDED, worker)
    redis.call('SADD', held_key(q, worker), id)
    redis.call('SET', key, first_run(q, envelope, watched, run_by(worker, RUNNING) .. cmsgpack.pack(number)))
    local told = redis.pcall('PUBLISH', handed_channel(q, worker), string.format('%.0f %d ', number, #id) .. id .. envelope)
    if type(told) == 'number' and told > 0 then return true end
    redis.call('DEL', key)
    redis.call('SREM', held_key(q, worker), id)
    return false
  end

  local workers = redis.pcall('ZRANGEBYSCORE', q.base .. IDLE, 0, '+inf', 'LIMIT', 0, 8)
  for _, worker in ipairs(workers) do
    if takes_jobs(worker) then
      if hand_to(worker) then return 1 end
      break
    end
  end
end

-- The record is written last, and where it cannot be, an entry without one is passed over.
local lane = lane_key(q, NORMAL)
local entry = redis.call('XADD', lane, '*', 'job', id)
if some_wait then redis.call('UNLINK', q.base .. IDLE) end
if redis.call('MSETNX', key, fresh(q, envelope, watched)) == 1 then return 1 end
redis.call('XDEL', lane, entry)
return 0
