-- Adds jobs whose id the queue does not have yet. A job without a `state` field is queued.
--
-- The records are written last and at once: where the script fails, there is a record only of what will be run, and an
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
local present, added, changed = {}, {}, {}

local keys = {}
for i = 3, #ARGV, 4 do keys[#keys + 1] = job_key(ARGV[i]) end
-- As a rule none is there, and that is one question.
local all_new = not again and (#keys == 0 or redis.call('EXISTS', unpack(keys)) == 0)

-- Whether the earlier call has added this job. What has ended and is gone is looked for only here: a new send may use
-- an id anew.
local function is_done(id, nonce)
  if added[id] then return added[id] == nonce end
  if redis.call('EXISTS', done_key(nonce ~= '' and nonce or id)) == 1 then return true end
  local job = load(id)
  return job and (job[NONCE] or '') == nonce
end

local function add(id, envelope, lane, due, nonce)
  local at = now
  if due ~= '' then
    at = tonumber(due)
    if string.sub(due, 1, 1) == '+' then at = now + at end
  end
  local later = at > now
  if later then schedule(id, at, lane) else push(lane, id, false) end
  local job = new_job(id, envelope, lane, nonce ~= '' and nonce, later and 'scheduled')
  added[id] = nonce
  changed[#changed + 1], changed[#changed + 2] = id, job
end

for i = 3, #ARGV, 4 do
  local id, position = ARGV[i], (i + 1) / 4
  local nonce = nonces[position] or ''
  if again and is_done(id, nonce) then
    -- Nothing is left to do.
  elseif added[id] or not all_new and redis.call('EXISTS', keys[position]) == 1 then
    present[#present + 1] = position
  else
    add(id, ARGV[i + 1], ARGV[i + 2] ~= '' and ARGV[i + 2] or nil, ARGV[i + 3], nonce)
  end
end
save_all(changed)
return present
