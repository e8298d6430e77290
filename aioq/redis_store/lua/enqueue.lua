-- Adds jobs whose id the queue does not have yet. A job without a `state` field is queued.
--
-- The record is written last and at once: where the script fails, there is a record only of what will be run, and an
-- entry or a due time without a record is passed over.
--
-- KEYS: 1 base key
-- ARGV: 1 'again' where an earlier call may have added these jobs, else ''; 2 '' or what tells each send from others
--   of the same id ('' where there can be none), as a MessagePack array;
--   then four per job: id, envelope, lane ('' for normal), due: '' for at once, '+N' for N ms from now, or the time in
--   ms since the epoch
-- REPLY: the positions (from 1) of the jobs that were there already, but not those that the earlier call has added
local again = ARGV[1] ~= ''
local nonces = ARGV[2] ~= '' and cmsgpack.unpack(ARGV[2]) or {}
local present = {}

-- Whether the earlier call has added this job. What has ended and is gone is looked for only here: a new send may use
-- an id anew.
local function is_done(id, key, nonce)
  if redis.call('EXISTS', done_key(nonce ~= '' and nonce or id)) == 1 then return true end
  return redis.call('EXISTS', key) == 1 and (redis.pcall('HGET', key, 'nonce') or '') == nonce
end

local function put(record, field, value)
  local n = #record
  record[n + 1], record[n + 2] = field, value
end

for i = 3, #ARGV, 4 do
  local id, lane, due = ARGV[i], ARGV[i + 2], ARGV[i + 3]
  local key = job_key(id)
  local position = (i + 1) / 4
  local nonce = nonces[position] or ''
  if again and is_done(id, key, nonce) then
    -- Nothing is left to do.
  elseif redis.call('EXISTS', key) == 1 then
    present[#present + 1] = position
  else
    local record = {'job', ARGV[i + 1], 'sent', now}
    if lane ~= '' then put(record, 'lane', lane) end
    if nonce ~= '' then put(record, 'nonce', nonce) end
    local at = now
    if due ~= '' then
      at = tonumber(due)
      if string.sub(due, 1, 1) == '+' then at = now + at end
    end
    if at > now then
      put(record, 'state', 'scheduled')
      schedule(id, at, lane ~= '' and lane or nil)
    else
      push(lane ~= '' and lane or nil, id, false)
    end
    redis.call('HSET', key, unpack(record))
  end
end
return present
