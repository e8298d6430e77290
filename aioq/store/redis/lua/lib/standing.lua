-- The workers that stand: they wait for jobs without a blocking read, and a message on their channel wakes them.
--
-- A claim that has read all lanes to their end puts its worker into STANDING. Each entry that is added to a lane
-- takes one worker out again and wakes it. So where workers stand, there are at least as many workers that were
-- woken, and have not claimed since, as entries: each of these claims takes an entry, or wakes the next worker.
-- A message that is lost costs no more than the time until its worker claims by itself, or until the recovery of
-- that worker wakes another one.
--
-- Whoever adds an entry deletes IDLE, and WAKEABLE in the same command: its reply shows whether both were there,
-- and so whether a worker stands. Where none does, this costs no command.
--
-- NEEDS: keys
local Standing = {}

-- In IDLE, the member without a name, which makes that key exist as long as WAKEABLE does. No direct dispatch goes
-- to a score below zero.
Standing.NOBODY, Standing.NOT_DISPATCHED = '', -2

function Standing.mark(q)
  redis.pcall('ZADD', q.base .. Keys.IDLE, Standing.NOT_DISPATCHED, Standing.NOBODY)
  redis.pcall('SET', q.base .. Keys.WAKEABLE, 1)
end

-- The most workers that a call tries: each takes about a microsecond. Those that are gone are many only after many
-- have died at once, and the others claim by themselves.
Standing.MOST_TRIED = 1000

-- Wakes so many workers, those that have stood longest; the message says for how many jobs. One that does not
-- listen is gone, or claims as soon as it listens again.
function Standing.wake(q, count, jobs)
  local each = string.format('%d', math.ceil(jobs / count))
  for _ = 1, Standing.MOST_TRIED do
    local first = redis.pcall('ZPOPMIN', q.base .. Keys.STANDING)
    if first.err or not first[1] then return end
    local heard = redis.pcall('PUBLISH', Keys.dispatch_channel(q, first[1]), each)
    if type(heard) == 'number' and heard > 0 then count = count - 1 end
    if count == 0 then break end
  end
  local others = redis.pcall('EXISTS', q.base .. Keys.STANDING)
  if others == 1 then Standing.mark(q) end
end

-- To be called when so many entries were added, which name so many jobs.
function Standing.added(q, entries, jobs)
  local were_there = redis.call('UNLINK', q.base .. Keys.IDLE, q.base .. Keys.WAKEABLE)
  if were_there == 2 then Standing.wake(q, entries, jobs) end
end

function Standing.join(q, worker)
  redis.pcall('ZADD', q.base .. Keys.STANDING, q.now, worker)
  Standing.mark(q)
end

-- Takes a worker out. Returns whether it was out already, so that it may have been woken, and not have claimed
-- since.
function Standing.leave(q, worker)
  return redis.pcall('ZREM', q.base .. Keys.STANDING, worker) ~= 1
end

-- The same for a worker that does not come back soon: another one is woken in its place.
function Standing.withdraw(q, worker)
  if Standing.leave(q, worker) then Standing.wake(q, 1, 1) end
  if redis.pcall('EXISTS', q.base .. Keys.STANDING) ~= 0 then return end
  redis.pcall('ZREM', q.base .. Keys.IDLE, Standing.NOBODY)
  redis.pcall('UNLINK', q.base .. Keys.WAKEABLE)
end
