-- Changes the record of a bulk operation; called for the App.
--
-- An operation goes through its queues one after the other. Whoever carries it on asks for a permit before each
-- step. It takes the operation for some time, and says how many jobs the rate allows. A lost lease does no harm:
-- in the queue itself each step is made once, see operation_step.lua.
--
-- NEEDS: keys
-- USES: reads operation; writes operation
-- KEYS: 1 base key
-- ARGV: 1 the operation, 2 the change: `pause`, `resume`, `abort`, `permit`, `release`, or `next` once a queue is
--   done,
--   3 who carries it on, 4 of a permit for how many jobs, of `next` how many queues were done before, 5 for how
--   many ms it is taken, 6 how many queues it has, 7 for how many ms after its last change it is kept, 8 how many
--   jobs were looked at in the queue that is done, 9 acted on, 10 left alone
-- REPLY: empty if there is no such operation; else {its state, how many queues are done, 1 if the caller has it,
--   how many jobs are permitted, in how many ms more will be, by how many ms its lease goes on (0 if nobody has
--   it)}
local key, carrier, number = Keys.operation(q, ARGV[1]), ARGV[3], tonumber(ARGV[4])
local found = redis.call('HMGET', key, 'state', 'at', 'carrier', 'until', 'rate', 'paid')
if not found[1] then return {} end
local state, at, owner, lease_end = found[1], tonumber(found[2]), found[3], tonumber(found[4] or 0)
local allowed, wait, is_mine = 0, 0, false

local function set(...) redis.call('HSET', key, ...) end
local function free() owner, lease_end = '', 0; set('carrier', '', 'until', 0) end

-- How many of some jobs the rate allows now. What was not used is saved for a second, or for one job.
local function allow(rate)
  if rate == 0 then return number end
  local each = 1000 / rate
  local paid = math.max(tonumber(found[6]), q.now - math.max(1000, each))
  local available = math.floor((q.now - paid) / each + 0.000001)
  local least = math.min(number, math.max(1, math.ceil(rate / 10)))
  if available < least then
    wait = math.max(1, math.ceil(paid + least * each - q.now))
    return 0
  end
  available = math.min(available, number)
  set('paid', string.format('%.6f', paid + available * each))
  return available
end

local changes = {}
function changes.pause()
  if state == 'running' then state = 'paused' end
end
function changes.resume()
  if state ~= 'paused' then return end
  state = 'running'
  set('paid', string.format('%.0f', q.now)) -- nothing is saved while it is paused
end
function changes.abort()
  if state ~= 'running' and state ~= 'paused' then return end
  state = 'aborted'
  set('ended', string.format('%.0f', q.now))
end
function changes.permit()
  if state ~= 'running' or owner and owner ~= '' and owner ~= carrier and lease_end > q.now then return end
  is_mine, owner, lease_end = true, carrier, q.now + tonumber(ARGV[5])
  allowed = allow(tonumber(found[5]))
  if wait > 0 then free() else set('carrier', carrier, 'until', string.format('%.0f', lease_end)) end
end
function changes.release()
  if owner == carrier then free() end
end
changes['next'] = function()
  if at ~= number then return end -- a repeated call, or another one was first
  at = at + 1
  set('at', at)
  redis.call('HINCRBY', key, 'looked_at', ARGV[8])
  redis.call('HINCRBY', key, 'done', ARGV[9])
  redis.call('HINCRBY', key, 'skipped', ARGV[10])
  if at < tonumber(ARGV[6]) or state == 'aborted' then return end
  state = 'ended'
  set('ended', string.format('%.0f', q.now))
  free()
end

changes[ARGV[2]]()
if state ~= found[1] then set('state', state) end
redis.call('PEXPIRE', key, ARGV[7])
return {state, at, is_mine and 1 or 0, allowed, wait, math.max(0, lease_end - q.now)}
