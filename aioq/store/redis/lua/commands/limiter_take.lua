-- Takes tokens and places of an app-wide limiter for those who wait in one process, and gives back what it has
-- left; called for the slot of the limiter. aioq/store/limiters.py says how a limiter works.
--
-- All that is known of it is in one hash, so that one command changes all that belongs together: how many places
-- are used, and by which process. The row of those that wait for a place may be lost: they call again.
--
-- NEEDS: keys
-- USES: reads limiter, row, snoozed; writes limiter, row, snoozed; publishes permit
-- KEYS: 1 base key
-- ARGV: 1 the process, 2 for how many ms its lease lasts, 3 '1' if leases that have ended are given up, 4 the
--   numbers that it declares, joined by ':': tokens, in how many ms, the most tokens, places; '' for none, 5 the
--   declaration that it knows, 6 how many places it holds, 7 how many of them are free, 8 how many tokens it
--   would like to have beside those that are needed, 9 for how many ms these may be used, 10 after how many ms
--   without a call a process that waits counts as dead, 11 after how many ms one that waits for a place calls
--   again, 12 for how many ms this is kept, 13 what it was promised: tokens, when, and the debts of then; '' for
--   nothing, 14 tokens that were used beyond those that were taken, 15 tokens that were not used, each with the
--   sum of all that were taken when they were, 16 what a service has said: how many tokens are left, and in how
--   many ms there are more, 17 for how many ms at once one waits for tokens if many are needed, 18 by how many
--   ms two times may differ that a service has said and that are the same, 19 the job that comes back rather
--   than waits, 20 for how many ms it does wait (negative: after how many ms it comes back anyway), 21 for how
--   many ms after its time it is noted; then one per permit that is waited for: how many tokens it needs
-- REPLY: empty if nobody has declared it; else {the declaration of its numbers, these if they are others than
--   the caller knows, how many places it holds, for how many of those that wait there is all they need, how many
--   tokens there are beside, in how many ms to call again ('' for not), what is promised then, the sum of all
--   tokens that were ever taken, 1 if others wait for a place, and 2 more if a service has said how many tokens
--   are left, and 4 more if the job is to come back then}
local TINY, MOST_WOKEN, MOST_LOOKED_AT, PAGE, MOST_DROPPED = 0.000001, 5, 500, 200, 100
local key, row, member = q.base .. Keys.LIMITER, q.base .. Keys.ROW, ARGV[1]
local mine, called = 'h:' .. member, 'w:' .. member
local found = redis.call('HMGET', key, 'rule', 'rev', 'level', 'line', 'at', 'debts', 'taken', 'left', 'until',
  'used', 'check', 'scan', mine)
local rule, rev = found[1], found[2]
local function exact(value) return string.format('%.17g', value) end
local function number(i, default) return tonumber(found[i]) or default end
local function numbers(text)
  local tokens, span, burst, most = string.match(text, '^(.-):(.-):(.-):(.-)$')
  return tokens / span, tonumber(burst), tonumber(most)
end
if ARGV[4] ~= '' and ARGV[4] ~= rule then
  rule, rev = ARGV[4], string.format('%.0f', math.max(q.micros, number(2, 0) + 1))
end
if not rule then return {} end

local rate, burst, most = numbers(rule)
-- What has come since the last call came by the numbers of then. A clock that was set back adds nothing at first.
local gained = numbers(found[1] or rule) * math.max(0, q.now - number(5, q.now))
local level = math.min(burst, number(3, burst) + gained)
local line = math.min(level, number(4, burst) + gained)
local debts, taken, left, closed_until = number(6, 0), number(7, 0), number(8, 0), number(9, 0)
local used, check = number(10, 0), number(11, 0)
local fields, gone = {}, {}
local function set(name, value) fields[#fields + 1] = name; fields[#fields + 1] = value end

-- Debts and refunds. Tokens that were not used come back as far as they would still be there if they had never
-- been taken: what came since then may have been lost because the bucket was full.
local debt = tonumber(ARGV[14])
level, line, debts, taken = level - debt, line - debt, debts + debt, taken + debt
for tokens, stamp in string.gmatch(ARGV[15], '(%S+) (%S+)') do
  local given = math.max(0, math.min(tonumber(tokens), burst - level - (taken - stamp)))
  level, line, debts = level + given, line + given, debts - given
end

-- What a service says only ever makes the limiter stricter, until the time that it names.
local remaining, reset = string.match(ARGV[16], '^(%S+) (%S*)$')
if remaining and reset == '' then
  local lost = math.max(0, level - remaining)
  level, line, debts = level - lost, line - lost, debts + lost
elseif remaining then
  local ends = q.now + reset
  remaining = tonumber(remaining)
  if closed_until <= q.now or ends > closed_until + ARGV[18] and (left >= 1 or remaining < 1) then
    left, closed_until = remaining, ends
  else
    left = math.min(left, remaining)
  end
end
local closes = closed_until > q.now

-- The places that the process holds. If its lease had ended, it gets back those that are free.
local function holding(text)
  local places, ends = string.match(text or '', '^(%d+) (%d+)$')
  return tonumber(places) or 0, tonumber(ends) or 0
end
local before, held, idle = holding(found[13]), tonumber(ARGV[6]), tonumber(ARGV[7])
if held > before then
  local back = before + math.max(0, math.min(held - before, most - used))
  idle, held = math.max(0, idle - (held - back)), back
end
used = used - before + held
local needs = {}
for i = 22, #ARGV do needs[#needs + 1] = tonumber(ARGV[i]) end
local wanted = most > 0 and #needs - idle or 0

-- Gives up the leases that have ended, if there may be some: it is noted when the first one ends of those that
-- were seen.
local function evict()
  local cursor, looked_at, first, seen = found[12] or '0', 0, q.now + tonumber(ARGV[2]), {}
  repeat
    local page = redis.call('HSCAN', key, cursor, 'COUNT', PAGE)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      local name = page[2][i]
      if string.sub(name, 1, 2) == 'h:' and name ~= mine and not seen[name] then
        seen[name] = true
        local places, ends = holding(page[2][i + 1])
        if ends > q.now then
          first = math.min(first, ends)
        else
          used = used - places
          set(name, '0 0')
          gone[#gone + 1] = name
        end
      end
    end
    looked_at = looked_at + #page[2] / 2
  until cursor == '0' or looked_at >= MOST_LOOKED_AT
  check = cursor == '0' and first or q.now
  set('scan', cursor)
end
if wanted > most - used and wanted > 0 and ARGV[3] == '1' and q.now >= check then evict() end

-- The row of those that wait for a place: who comes anew stands behind them.
local function leave_row(process)
  redis.call('ZREM', row, process)
  gone[#gone + 1] = 'w:' .. process
end
local function drop_dead(free)
  for _, process in ipairs(redis.call('ZRANGE', row, 0, free - 1)) do
    local last = tonumber(redis.call('HGET', key, 'w:' .. process) or 0)
    if process ~= member and last + tonumber(ARGV[10]) < q.now then leave_row(process) end
  end
end
local places, waits, stands = 0, most > 0 and redis.call('ZCARD', row) or 0, false
if waits > 0 then stands = redis.call('ZSCORE', row, member) end
if wanted > 0 then
  local free = most - used
  local function ahead()
    return stands and redis.call('ZCOUNT', row, '-inf', '(' .. stands) or redis.call('ZCARD', row)
  end
  local before_me = waits > 0 and ahead() or 0
  if free > 0 and before_me >= free then
    drop_dead(math.min(free, MOST_DROPPED))
    before_me, waits = ahead(), redis.call('ZCARD', row)
  end
  if free > before_me then
    local share = math.ceil(free / (waits + (stands and 0 or 1)))
    places = math.min(wanted, free - before_me, share)
    held, used = held + places, used + places
  end
  if places < wanted then
    if places > 0 or not stands then redis.call('ZADD', row, string.format('%.0f', q.micros), member) end
    redis.call('PEXPIRE', row, ARGV[12])
    set(called, string.format('%.0f', q.now))
  elseif stands then
    leave_row(member)
  end
elseif stands then
  leave_row(member)
end

-- The tokens. Who was promised some takes these, and what is in the line; who was not, what is in the line.
local eligible = most > 0 and math.min(#needs, idle + places) or #needs
local promised, due, debts_then = string.match(ARGV[13], '^(%S+) (%S+) (%S+)$')
promised = tonumber(promised)
local job, snoozed, noted = ARGV[19], q.base .. Keys.SNOOZED, false
if job ~= '' and not promised then
  due, debts_then, noted = redis.call('ZSCORE', snoozed, job), debts, true
  promised = due and needs[1]
end
if promised and (rate == 0 or eligible == 0 or needs[1] > promised + TINY) then
  line, promised = line + promised, nil
end
line = math.min(line, level)
local budget = rate > 0 and math.max(0, line) or math.huge
if promised then
  due = due + (debts - debts_then) / rate
  budget = q.now + 1 < due and 0 or math.min(level, promised + math.max(0, line))
end
if closes then budget = math.min(budget, left) end
local granted, sum = 0, 0
while granted < eligible and sum + needs[granted + 1] <= budget + TINY do
  granted = granted + 1
  sum = sum + needs[granted]
end
if granted > 0 then
  taken = taken + sum
  if rate > 0 then level, line = level - sum, math.min(level - sum, line - sum + (promised or 0)) end
  if closes then left = left - sum end
  promised = nil
end
local wait, promise, spare = '', '', 0
if granted < eligible then
  local chunk = needs[granted + 1]
  if closes and left < chunk then
    wait = closed_until - q.now
    if promised then line = math.min(level, line + promised) end
  elseif promised then
    due = math.max(due, q.now + (promised - level) / rate)
    wait, promise = due - q.now, exact(promised) .. ' ' .. exact(due) .. ' ' .. exact(debts)
  else
    -- For several of those that wait at once, if tokens come faster than it is worth a call.
    local turn, i = math.min(burst, math.max(chunk, rate * ARGV[17])), granted + 2
    while i <= eligible and chunk + needs[i] <= turn do
      chunk = chunk + needs[i]
      i = i + 1
    end
    wait = (chunk - line) / rate
    line = line - chunk
    promise = exact(chunk) .. ' ' .. exact(q.now + wait) .. ' ' .. exact(debts)
  end
  wait = math.max(1, math.ceil(wait))
elseif rate > 0 and granted == #needs and not closes then
  -- They may be used until then, so they count as used then, with what would have come meanwhile.
  local quantum = rate * tonumber(ARGV[9])
  spare = math.max(0, math.floor(math.min(tonumber(ARGV[8]), line, quantum, burst - quantum) + TINY))
  if spare > 0 then
    level, taken = math.min(level, burst - quantum) - spare, taken + spare
    line = math.min(line - spare, level)
  end
end
if eligible < #needs then wait = math.min(wait == '' and math.huge or wait, tonumber(ARGV[11])) end

-- A job that would wait for long comes back at its time, with what it was promised.
local long = tonumber(ARGV[20])
local snoozes = job ~= '' and granted == 0 and wait ~= '' and (long < 0 or wait > long and eligible > 0)
if snoozes then
  if long < 0 then wait = -long end
  redis.call('ZREMRANGEBYSCORE', snoozed, '-inf', q.now - ARGV[21])
  redis.call('ZADD', snoozed, string.format('%.0f', q.now + wait), job)
  redis.call('PEXPIRE', snoozed, ARGV[12])
elseif noted and due then
  redis.call('ZREM', snoozed, job)
end

local lease_end = q.now + tonumber(ARGV[2])
if held > 0 then
  check = math.min(check, lease_end)
  set(mine, held .. ' ' .. string.format('%.0f', lease_end))
elseif before > 0 then
  set(mine, '0 0')
  gone[#gone + 1] = mine
end
redis.call('HSET', key, 'rule', rule, 'rev', rev, 'level', exact(level), 'line', exact(line), 'at',
  string.format('%.0f', q.now), 'debts', exact(debts), 'taken', exact(taken), 'left', exact(left), 'until',
  string.format('%.0f', closed_until), 'used', used, 'check', string.format('%.0f', check), unpack(fields))
redis.call('PEXPIRE', key, ARGV[12])
if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end

-- Those that may take a place now are woken.
if waits > 0 and most > used then
  for _, process in ipairs(redis.call('ZRANGE', row, 0, math.min(most - used, MOST_WOKEN) - 1)) do
    if process ~= member and redis.call('PUBLISH', Keys.permit_channel(q, process), '') == 0 then
      redis.call('ZREM', row, process)
      redis.call('HDEL', key, 'w:' .. process)
    end
  end
end
local others = most > 0 and waits > 0 and redis.call('ZCARD', row) or 0
if others > 0 and places < wanted then others = others - 1 end
return {rev, ARGV[5] ~= rev and rule or '', held, granted, spare, tostring(wait), promise, exact(taken),
  (others > 0 and 1 or 0) + (closes and 2 or 0) + (snoozes and 4 or 0)}
