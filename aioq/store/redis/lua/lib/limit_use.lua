-- What a job says of each limit that it is under: `LimitUse` in aioq/store/extra.py, of which `extra.limits` is a
-- list.
--
-- NEEDS: record
local Use = {}
-- The items of `extra.limits`, each of which is a list.
Use.NAME, Use.KEY, Use.CONCURRENCY, Use.RATE, Use.PER, Use.BURST = 1, 2, 3, 4, 5, 6
Use.COST, Use.ON_LIMIT, Use.ORDERED, Use.DECLARED, Use.WEIGHT, Use.REFUSALS = 7, 8, 9, 10, 11, 12
-- The name in it of what is no limit: the groups of such jobs are served in turn.
Use.FAIR = '~fair'
function Use.group_of(use) return use[Use.NAME] .. ':' .. use[Use.KEY] end
function Use.of(job) return job[Field.EXTRA] and job[Field.EXTRA].limits end

-- Whether a limit has a rate for a job: code has declared one, or an operator has put it.
function Use.has_rate(use, numbers) return use[Use.RATE] > 0 or numbers[2] > 0 end

-- How many jobs of a key are taken in a turn, by one of them.
function Use.weight(job)
  for _, use in ipairs(job and Use.of(job) or {}) do
    if use[Use.NAME] == Use.FAIR then return math.max(use[Use.WEIGHT], 1) end
  end
  return 1
end
