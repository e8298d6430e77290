-- Changes a limit: puts other numbers in the place of those that code declares, or pauses it or one of its keys;
-- or undoes that. The caller then looks at all keys that wait (limit_wake.lua); a timer has workers do that if it
-- dies.
--
-- NEEDS: keys, limits
-- USES: reads bucket, group, halted, holders, job, lanes, limits, scheduled, standing, timers, tokens; writes
--   blocked, bucket, halted, holders, idle, lanes, limits, scheduled, standing, timers, tokens, wakeable;
--   publishes dispatched
-- KEYS: 1 base key
-- ARGV: 1 'put', 'remove', 'pause' or 'resume', 2 the limit, 3 a group for a key alone, else '', 4 the numbers as
--   a MessagePack array, or when the pause ends in ms (0 if it does not end by itself)
-- REPLY: 1 if there were such numbers, or was such a pause, before; else 0
local act, name, group, value = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local noted = Numbers.noted(q, name) or {false, 0, false, false}
local before = 0
if act == 'put' or act == 'remove' then
  before = noted[3] and 1 or 0
  noted[3] = act == 'put' and cmsgpack.unpack(value)
  Numbers.note(q, name, noted)
else
  local field = group ~= '' and group or name
  local at = redis.call('HGET', q.base .. Keys.HALTED, field)
  before = at and (at == '0' or tonumber(at) > q.now) and 1 or 0
  if act == 'pause' then
    redis.call('HSET', q.base .. Keys.HALTED, field, value)
    redis.call('PEXPIRE', q.base .. Keys.HALTED, Numbers.KEPT)
  else
    redis.call('HDEL', q.base .. Keys.HALTED, field)
  end
  noted[4] = redis.call('EXISTS', q.base .. Keys.HALTED) == 1
  Numbers.note(q, name, noted)
end
if group ~= '' then
  Limits.wake(q, group, nil, nil, true)
else
  Numbers.look_at_all(q, name)
  if act == 'pause' and value ~= '0' then Numbers.look_at_all(q, name, tonumber(value)) end
end
return before
