-- Adds lines to the logs of running jobs, behind the same fence as a settle. Lines are numbered from 1 on: the
-- number is the first part of an entry's id.
--
-- NEEDS: record
-- USES: reads job, log; writes log
-- KEYS: 1 base key
-- ARGV: 1 worker, 2 how many lines a job keeps, 3 for how many ms after the last one, then three per job: id,
--   claim, and its lines as a MessagePack array
-- REPLY: the positions (from 1) of the jobs whose lines were refused
local worker, most, ttl, refused = ARGV[1], ARGV[2], ARGV[3], {}

local function last_number(key)
  local found = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  return not is_unreadable(found) and found[1] and tonumber(string.match(found[1][1], '^%d+')) or 0
end

local function add(id, lines)
  local key = Keys.log(q, id)
  local number = last_number(key)
  for i, line in ipairs(lines) do
    redis.call('XADD', key, 'MAXLEN', most, string.format('%d-0', number + i), 'line', line)
  end
  redis.call('PEXPIRE', key, ttl)
end

local ids = {}
for i = 4, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
local jobs = Record.load_all(q, ids)
for i = 4, #ARGV, 3 do
  local job = jobs[ARGV[i]]
  if Record.is_run_by(job, worker, ARGV[i + 1]) then
    add(ARGV[i], cmsgpack.unpack(ARGV[i + 2]))
  else
    refused[#refused + 1] = (i - 1) / 3
  end
end
return refused
