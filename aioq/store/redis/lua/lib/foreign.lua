-- Records that a later version of aioq has written, as during a deployment: with fields or values that this one does not
-- know, or nothing that it can read. None is changed here, for what this version does not know it could not keep true, and
-- none is taken for no record: its job is put off until a worker comes by that reads it.
--
-- NEEDS: call, keys, record, leases
local Foreign = {}

-- Until it is looked at again, in ms. A guess: soon after such a worker has come, and few log lines until then.
local PUT_OFF = 5000

-- The state of a job whose record this version cannot take, 'unknown' where not even that can be read, and its lane; nil
-- where there is no record. `text` is what was read under its key, false for nothing or for a key of another type.
function Foreign.state_of(q, id, text)
  if not text then return redis.call('EXISTS', job_key(q, id)) == 1 and 'unknown' or nil end
  local readable, job = pcall(cmsgpack.unpack, text)
  if not readable or type(job) ~= 'table' or type(job[SENT]) ~= 'number' then return 'unknown' end
  local lane = (job[LANE] == 'high' or job[LANE] == 'low') and job[LANE] or nil
  return STATES[job[STATE] or false] and (job[STATE] or 'queued') or 'unknown', lane
end

-- A job's record for those who only look: of one of a later version as much as this one knows, and then also true, for it
-- must not be written. Nil for none that can be read.
function Foreign.look(q, id)
  local text = redis.pcall('GET', job_key(q, id))
  if is_unreadable(text) or not text then return nil end
  local job = unpacked(text)
  if job then return job end
  local readable, newer = pcall(cmsgpack.unpack, text)
  if not readable or type(newer) ~= 'table' then return nil end
  local known = {}
  for field = 1, #KINDS do known[field] = newer[field] or false end
  if type(known[EXTRA]) == 'table' then known[EXTRA] = known_of(known[EXTRA]) end
  if is_record(known) then return known, true end
end

-- Lets a job wait without a word in its record. One that waits for its time already goes on waiting for that.
function Foreign.put_off(q, id) redis.call('ZADD', q.base .. SCHEDULED, 'NX', q.now + PUT_OFF, id) end

-- Whether a job that runs, by its record, has no worker: its worker is gone, and did not give it back, because it
-- was recovered by one that could not read the record. Where only the register of the workers has vanished, the worker
-- still holds it.
function Foreign.is_orphan(q, job)
  local owner = job[WORKER]
  return not redis.call('ZSCORE', q.base .. WORKERS, owner) and not Leases.is_known_elsewhere(q, owner)
end
