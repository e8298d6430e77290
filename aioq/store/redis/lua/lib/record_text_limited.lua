-- Reads and writes the most common records of jobs under limits as text; see lib/record_text_write.lua, and
-- docs/design.md, "The most common records are read and written as text".
--
-- These are records of jobs that have nothing but limits in EXTRA, and come or go like a plain job:
--
--   waits   {JOB, SENT, false, false, 'waiting', five false, WAITERS, nine false, {limits, waits}}
--   first   {JOB, SENT, false, false, 'running', worker, 1, STARTED, false, false, WAITERS, nine false, {limits}}
--   done    {false, SENT, false, false, 'succeeded', worker, 1, STARTED, OUTCOME, ENDED, ten false, {limits}}
--
-- NEEDS: msgpack, record_text_write, record_text_read, record
local LimitText = {}

LimitText.BEGIN = '\220\0\21' -- an array of 21 items
LimitText.WAITING = FALSE .. FALSE .. '\167waiting' .. FALSE .. FALSE .. FALSE .. FALSE .. FALSE
-- Between WAITERS and what is in `limits`: while the job waits, and from its start on.
LimitText.OF_WAITING = FALSE_8 .. FALSE .. '\130\166limits'
LimitText.OF_OTHERS = FALSE_8 .. FALSE .. '\129\166limits'
LimitText.FALSE = 194
LimitText.GROUP = '\165waits\145'
-- What the record of a job that has succeeded has before SENT, and between ENDED and its limits.
LimitText.BEFORE_DONE, LimitText.AFTER_DONE = '\220\0\21' .. FALSE, FALSE .. LimitText.OF_OTHERS
LimitText.ONE_USE = '\145\156' -- an array of one item, which is an array of twelve

-- Whether a job that waits in a group has such a record.
function LimitText.fits(envelope, extra)
  local count = 0
  for _ in pairs(extra) do count = count + 1 end
  return count == 2 and #envelope <= BODY_LIMIT
end

-- The record of a new job that waits in a group; `limits` is packed, `watched` too, or nil.
function LimitText.waiting(q, envelope, watched, limits, group)
  return table.concat({
    LimitText.BEGIN, header(#envelope), envelope, cmsgpack.pack(q.now), LimitText.WAITING, watched or FALSE,
    LimitText.OF_WAITING, limits, LimitText.GROUP, packed(group),
  })
end

-- For a record with `state` after SENT, and with `before` after WAITERS: the positions of its envelope, of SENT,
-- of WAITERS, and of what comes after `before`. Nil for any other record. What must be at a place is looked for
-- from there on, which makes no string as `string.sub` does.
function LimitText.parts(text, state, before)
  if string.find(text, LimitText.BEGIN, 1, true) ~= 1 then return nil end
  local first, sent = string_at(text, 4)
  if not first or string.byte(text, sent) ~= UINT_64 then return nil end
  if string.find(text, state, sent + TIME, true) ~= sent + TIME then return nil end
  local watched = sent + TIME + #state
  local after = watched + 1
  if string.byte(text, watched) ~= LimitText.FALSE then after = select(2, string_at(text, watched)) end
  if not after or string.find(text, before, after, true) ~= after then return nil end
  return first, sent, watched, after + #before
end

-- For a job that waits in the group of which `tail` is the end of its record: its envelope, the position of the
-- last byte of SENT, its packed limits, and the record of its first run. Nil for any other record. `run` is the
-- result of `run_by`, followed by STARTED.
function LimitText.begin_first(text, tail, run)
  local first, sent, watched, at = LimitText.parts(text, LimitText.WAITING, LimitText.OF_WAITING)
  local last = #text - #tail
  if not first or string.find(text, tail, last + 1, true) ~= last + 1 then return nil end
  local limits, waiters = string.sub(text, at, last), string.sub(text, watched, at - #LimitText.OF_WAITING - 1)
  local begin = string.sub(text, 1, sent + TIME - 1)
  local record = begin .. run .. UNWATCHED .. waiters .. LimitText.OF_OTHERS .. limits
  return string.sub(text, first, sent - 1), sent + TIME - 1, limits, record
end
function LimitText.tail_of(group) return LimitText.GROUP .. packed(group) end

-- For the record of a first run under this claim: when the job was sent, packed, the channels that wait for it, or
-- false, and its packed limits. Nil for any other record. `run` is as above, followed by UNWATCHED.
function LimitText.read_first(text, run)
  local first, sent, watched, at = LimitText.parts(text, run, LimitText.OF_OTHERS)
  if not first then return nil end
  local from, to = string_at(text, watched)
  return string.sub(text, sent, sent + TIME - 1), from and string.sub(text, from, to - 1) or false,
    string.sub(text, at)
end

-- Of packed limits that are one use: the positions of its name, of its key, and of the rest of it; and where each
-- of the first two ends. Nil for several.
function LimitText.one_use(limits)
  if string.find(limits, LimitText.ONE_USE, 1, true) ~= 1 then return nil end
  local name, name_end = string_at(limits, 3)
  local key, rest = string_at(limits, name_end or 1)
  if key and rest <= #limits then return name, key, rest, name_end - 1, rest - 1 end
end

-- The uses in packed limits; nil if these are not such.
function LimitText.uses(limits)
  local readable, uses = pcall(cmsgpack.unpack, limits)
  if not readable or type(uses) ~= 'table' or not uses[1] or not Record.are_limits(uses) then return nil end
  return uses
end
