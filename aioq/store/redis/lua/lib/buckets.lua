-- The buckets of groups whose limit has a rate.
--
-- NEEDS: call, keys, groups
local Buckets = {}

-- The generic cell rate algorithm: a group's bucket is one number, when it will be full again, in µs. It is kept
-- until then. A job takes its cost times the time in which one permit comes; the bucket is empty if it would be
-- full only after `span`. See https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm, "virtual scheduling".
-- Beside it stands the time in which one permit comes: if that has changed, the bucket lacks as many as before.
--
-- Returns when the bucket will be full: after `span` at the latest, also if the server's clock was ahead. And
-- whether something else is noted: it is to be noted anew then, or no token comes until that time.
function Buckets.full_at(q, group, numbers)
  local each, span = numbers[3] / numbers[2], math.ceil(numbers[4] * numbers[3] / numbers[2])
  local noted = redis.pcall('GET', Keys.bucket(q, group))
  local full, before = string.match(not is_unreadable(noted) and noted or '', '^(%d+) ?(%S*)$')
  local missing = math.max((tonumber(full or nil) or 0) - q.micros, 0)
  before = tonumber(before or nil) or each
  local found = before == each and missing or math.ceil(missing / before * each)
  found = math.min(found, span)
  return q.micros + found, missing > 0 and (before ~= each or found ~= missing)
end

-- Returns when the bucket will be full again once it has given this cost; or nil, when it can, and what is to be
-- noted instead of what is there, if that is not right.
function Buckets.ask(q, group, numbers, cost)
  local rate, per, burst = numbers[2], numbers[3], numbers[4]
  local span = math.ceil(burst * per / rate)
  local taken = math.min(math.ceil(cost * per / rate), span)
  local full, differs = Buckets.full_at(q, group, numbers)
  local after = full + taken
  if after - q.micros <= span then return after end
  return nil, after - span, differs and full or nil
end
function Buckets.charge(q, group, numbers, after)
  local text = Groups.digits(after) .. ' ' .. string.format('%.17g', numbers[3] / numbers[2])
  redis.call('SET', Keys.bucket(q, group), text, 'PX', math.ceil((after - q.micros) / 1000))
end
