-- Reads the first entries of the outbox for a queue, to deliver them there. Entries that are void are deleted.
--
-- NEEDS: keys, record, outbox
-- USES: reads body, job, outbox, relays; writes outbox, relays, timers
-- KEYS: 1 base key
-- ARGV: 1 the other queue, 2 for how many ms other workers leave it to the caller, 3 the most entries
-- REPLY: {1 if no entry of this stream was read before, else 0; 1 if there are more entries than were read, else
--   0; the name of this reading}; and per entry its id, kind, job, and what it says
local target, hold, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
-- No further entry is read once the reply has this many bytes.
local READ_LIMIT = 1048576
local key, bytes = Keys.outbox(q, target), 0

-- By kind, what an entry says; nil if it is void.
local says = {}
function says.job(entry, id, job)
  if job[Field.STATE] ~= 'moving' or Record.move_of(job)[2] ~= entry then return nil end
  job[Field.JOB] = Record.whole(q, id, job[Field.JOB])
  return cmsgpack.pack(job)
end
function says.ended(_, id, job)
  local origins = Record.origins_of(job)
  if not origins or not Record.has_ended(job) then return nil end
  for i = 2, #origins do
    if origins[i] == target then
      local until_ms = job[Field.TTL] and job[Field.ENDED] + job[Field.TTL] or origins[1]
      local outcome, left = Record.whole(q, id, job[Field.OUTCOME]), math.max(0, until_ms - q.now)
      return cmsgpack.pack({job[Field.STATE], outcome, left})
    end
  end
end

-- Whether a newer version has written this record: then a worker that can read it delivers the job. Anything else
-- was put there by hand, and holds up no other job.
local function is_newer(id)
  local text = redis.pcall('GET', Keys.job(q, id))
  if is_unreadable(text) or not text then return false end
  local readable, job = pcall(cmsgpack.unpack, text)
  return readable and type(job) == 'table' and type(job[Field.SENT]) == 'number'
end

local entries = redis.call('XRANGE', key, '-', '+', 'COUNT', most)
local taken = entries[1] and redis.call('HGET', q.base .. Keys.RELAYS, target)
local reply, is_cut = {{taken and 0 or 1, 0, q.micros}}, false
for _, entry in ipairs(entries) do
  local kind, id, data = Outbox.fields_of(entry)
  local job = kind ~= 'cancel' and Record.load(q, id)
  is_cut = bytes >= READ_LIMIT or kind ~= 'cancel' and not job and is_newer(id)
  if is_cut then break end
  local said = data
  if kind ~= 'cancel' then said = job and says[kind] and says[kind](entry[1], id, job) end
  if said then
    bytes = bytes + #said
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = entry[1], kind, id, said
  else
    redis.call('XDEL', key, entry[1])
  end
end
if #reply > 1 then
  redis.call('HSET', q.base .. Keys.RELAYS, target, string.format('%.0f', q.micros))
  Outbox.hold(q, target, hold)
elseif is_cut then
  Outbox.hold(q, target, hold)
elseif not Outbox.clear(q, target) then
  reply[1][2] = 1
end
if #reply > 1 and (is_cut or #entries == most) then reply[1][2] = 1 end
return reply
