-- Reads the history: what has ended or gone into another attempt, by its numbers.
--
-- NEEDS: call, keys
-- USES: reads history
-- KEYS: 1 base key
-- ARGV: 1 'newest' or 'oldest', for what comes first, 2 the number before or after which to begin, '' for the end,
--   3 about how many jobs to return
-- REPLY: {time in ms, {id, {fields and values}} of each entry, in the order of their numbers or against it}. The
--   first entry may also hold jobs on the other side of the number
local newest, from, most = ARGV[1] == 'newest', ARGV[2], tonumber(ARGV[3])
local reply, jobs, bytes = {q.now}, 0, 0
-- A reply ends after the entry with which it has as many bytes, so that it arrives in time.
local REPLY_LIMIT = 1048576
-- The most entries that are read at once.
local PART = 16

local function add(entry)
  reply[#reply + 1] = entry
  for i = 1, #entry[2], 2 do
    bytes = bytes + #entry[2][i + 1]
    if entry[2][i] == 'ends' then jobs = jobs + #entry[2][i + 1] end
  end
end
local function is_full() return jobs >= most or bytes >= REPLY_LIMIT end

-- Adds what was found; returns how many entries that were, and where the next ones begin.
local next_id = newest and '+' or '-'
local function take(found)
  if is_unreadable(found) then return 0 end
  for _, entry in ipairs(found) do
    if is_full() then return 0 end
    add(entry)
    next_id = '(' .. entry[1]
  end
  return #found
end

if from ~= '' and newest then
  -- The entry of the number before it may hold later ones too.
  local before = string.format('%.0f', tonumber(from) - 1)
  if take(redis.pcall('XRANGE', q.base .. Keys.HISTORY, before, '+', 'COUNT', 1)) == 0 then next_id = before end
elseif from ~= '' then
  next_id = string.format('%.0f', tonumber(from) + 1)
end
local found = PART
while found == PART and not is_full() do
  if newest then
    found = take(redis.pcall('XREVRANGE', q.base .. Keys.HISTORY, next_id, '-', 'COUNT', PART))
  else
    found = take(redis.pcall('XRANGE', q.base .. Keys.HISTORY, next_id, '+', 'COUNT', PART))
  end
end
return reply
