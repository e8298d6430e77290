-- Direct dispatch: a lone job goes to a worker that waits, so that this need not be woken and then claim;
-- docs/design.md, "A lone job goes to a waiting worker by direct dispatch".
--
-- NEEDS: keys, record_text_write
local Dispatch = {}

-- The score in IDLE of a worker that got a job by direct dispatch, and has not begun to wait again; and how many
-- workers are tried.
Dispatch.DISPATCHED, Dispatch.MOST_TRIED = -1, 8

-- Whether a job can be dispatched to a worker: its lease has not ended and is not marked (lib/leases.lua), so that
-- nothing is paused; and it is subscribed. This is checked before the job is published, because in a cluster the
-- message also reaches subscribers at other nodes, which PUBLISH does not count.
function Dispatch.takes_jobs(q, worker)
  local lease = redis.call('ZSCORE', q.base .. Keys.WORKERS, worker)
  if not lease or tonumber(lease) <= q.now or tonumber(lease) % 1 ~= 0 then return false end
  local listening = redis.pcall('PUBSUB', 'NUMSUB', Keys.dispatch_channel(q, worker))
  return not listening.err and listening[2] > 0
end

-- Marks a job, which has no record, as claimed by a worker, as a claim would, and publishes it. If the worker dies
-- before it has received the job, its recovery finds the job. If the message cannot be published, everything is
-- undone, except that the worker gets no direct dispatch until it waits again; returns whether it was published.
function Dispatch.to(q, worker, id, envelope, mark, record)
  local key, number = Keys.job(q, id), q.micros -- of this claim, see lib/record.lua
  redis.call('ZADD', q.base .. Keys.IDLE, Dispatch.DISPATCHED, worker)
  redis.call('SADD', Keys.held(q, worker), id)
  redis.call('SET', key, record(run_by(worker, RUNNING) .. cmsgpack.pack(number)))
  local message = mark .. string.format('%.0f %d ', number, #id) .. id .. envelope
  local receivers = redis.pcall('PUBLISH', Keys.dispatch_channel(q, worker), message)
  if type(receivers) == 'number' and receivers > 0 then return true end
  redis.call('DEL', key)
  redis.call('SREM', Keys.held(q, worker), id)
  return false
end

-- Dispatches a job, which has no record, to the worker that has waited longest; returns that worker, nil for none.
-- `record` makes the record of its first run; `mark` is '+' if the job has a unique key, else ''.
function Dispatch.one(q, id, envelope, mark, record)
  local workers = redis.pcall('ZRANGEBYSCORE', q.base .. Keys.IDLE, 0, '+inf', 'LIMIT', 0, Dispatch.MOST_TRIED)
  for _, worker in ipairs(workers) do
    if Dispatch.takes_jobs(q, worker) then
      return Dispatch.to(q, worker, id, envelope, mark, record) and worker or nil
    end
  end
end
