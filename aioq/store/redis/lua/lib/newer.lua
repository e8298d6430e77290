-- Records that a newer version of aioq has written, as during a deployment: they have fields or values that this
-- version does not know, or it cannot read them at all. They are never changed here, because this version could
-- make them inconsistent. Nor are they treated as missing: their jobs are put off until a worker comes that can
-- read them.
--
-- NEEDS: call, keys, record, leases
local Newer = {}

-- For how long a job is put off, in ms. A guess: short enough to find such a worker soon after it has started,
-- long enough for few log lines until then.
Newer.PUT_OFF = 5000

-- The state and the lane of a job whose record this version must not use. The state is 'unknown' if it cannot be
-- read, and nil if there is no record. `text` is the value of the job's key; false for none or for another type.
function Newer.state_of(q, id, text)
  if not text then return redis.call('EXISTS', Keys.job(q, id)) == 1 and 'unknown' or nil end
  local readable, job = pcall(cmsgpack.unpack, text)
  if not readable or type(job) ~= 'table' or type(job[Field.SENT]) ~= 'number' then return 'unknown' end
  local lane = (job[Field.LANE] == 'high' or job[Field.LANE] == 'low') and job[Field.LANE] or nil
  return Record.STATES[job[Field.STATE] or false] and (job[Field.STATE] or 'queued') or 'unknown', lane
end

-- A job's record, for reading only. Of a newer record it has the fields that this version knows; then the second
-- value is true, because it must not be written. Nil if there is no readable record.
function Newer.read(q, id)
  local text = redis.pcall('GET', Keys.job(q, id))
  if is_unreadable(text) or not text then return nil end
  local job = Record.unpacked(text)
  if job then return job end
  local readable, newer = pcall(cmsgpack.unpack, text)
  if not readable or type(newer) ~= 'table' then return nil end
  local known = {}
  for field = 1, #Record.KINDS do known[field] = newer[field] or false end
  if type(known[Field.EXTRA]) == 'table' then known[Field.EXTRA] = Record.known_of(known[Field.EXTRA]) end
  if Record.is_record(known) then return known, true end
end

-- Puts a job off without changing its record. If it is scheduled already, it keeps that time.
function Newer.put_off(q, id) redis.call('ZADD', q.base .. Keys.SCHEDULED, 'NX', q.now + Newer.PUT_OFF, id) end

-- Whether a job that is running, by its record, belongs to no worker any more. That is so if its worker was
-- recovered by one that could not read the record, and so did not give the job back. If only the set of workers
-- was deleted, the worker still holds it.
function Newer.is_orphan(q, job)
  local owner = job[Field.WORKER]
  return not redis.call('ZSCORE', q.base .. Keys.WORKERS, owner) and not Leases.is_known_elsewhere(q, owner)
end
