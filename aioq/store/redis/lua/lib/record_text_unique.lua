-- Writes and reads as text the records of jobs that have a unique key, and are else like those of
-- lib/record_text_write.lua; docs/design.md, "The most common records are read and written as text".
--
--   fresh   {JOB, SENT, 8 times false, WAITERS, 9 times false, EXTRA}
--   first   {JOB, SENT, false, false, 'running', worker, 1, STARTED, false, false, WAITERS, 9 times false, EXTRA}
--   done    {false, SENT, false, false, 'succeeded', worker, 1, STARTED, OUTCOME, ENDED, 10 times false, EXTRA}
--
-- WAITERS is false if nobody waits. EXTRA has `unique` alone, as the sender has made it: the key, until when it is
-- held, what becomes of a conflict, and four zeros (lib/unique.lua). Any other EXTRA is handled in the general
-- way. Of a unique key only two hooks have something to do in these states: `start` gives a key back that is held
-- until then, and `ended`; see lib/hooks.lua.
--
-- NEEDS: call, msgpack, record_text_write, record_text_read
local UniqueText = {}

UniqueText.BEGIN_ARRAY_21, UniqueText.FALSE_BYTE = '\220\0\21', 194
UniqueText.BEFORE_DONE = '\220\0\21\194'
-- The fields between WAITERS and the key: nine times false, and how EXTRA begins.
UniqueText.BEFORE_KEY = '\194\194\194\194\194\194\194\194\194\129\166unique\151'

-- The items of `extra.unique` after the key, and until when the key is held.
UniqueText.modes = once(function()
  return {
    ['\165ended\166return\0\0\0\0'] = 'ended', ['\165ended\165raise\0\0\0\0'] = 'ended',
    ['\165ended\167replace\0\0\0\0'] = 'ended', ['\165ended\166latest\0\0\0\0'] = 'ended',
    ['\167started\166return\0\0\0\0'] = 'started', ['\167started\165raise\0\0\0\0'] = 'started',
    ['\167started\167replace\0\0\0\0'] = 'started', ['\167started\166latest\0\0\0\0'] = 'started',
  }
end)

-- What a fresh record has before its envelope, from SENT to its key, and after that. `watched` is the channel that
-- waits for the job, packed, or nil.
function UniqueText.before_fresh(size) return UniqueText.BEGIN_ARRAY_21 .. header(size) end
function UniqueText.after_fresh(q, watched)
  return cmsgpack.pack(q.now) .. UNRUN .. (watched or FALSE) .. UniqueText.BEFORE_KEY
end
function UniqueText.after_key(till, conflict) return packed(till) .. packed(conflict) .. '\0\0\0\0' end

-- For a record of one of the first two shapes: the positions of the envelope, of SENT, of WAITERS and of what
-- comes after that; the key, and until when it is held. `fields` are those between SENT and WAITERS. Nil for any
-- other record. What must be at a place is looked for from there on, which makes no string as `string.sub` does.
function UniqueText.cut(text, fields)
  if string.find(text, UniqueText.BEGIN_ARRAY_21, 1, true) ~= 1 then return nil end
  local envelope, sent = string_at(text, 4)
  if not envelope or string.byte(text, sent) ~= UINT_64 then return nil end
  if string.find(text, fields, sent + TIME, true) ~= sent + TIME then return nil end
  local watched = sent + TIME + #fields
  local after, before_key = string.find(text, UniqueText.BEFORE_KEY, watched + 1, true)
  if not after then return nil end
  if after == watched + 1 then
    if string.byte(text, watched) ~= UniqueText.FALSE_BYTE then return nil end
  elseif select(2, string_at(text, watched)) ~= after then
    return nil
  end
  local first, behind = string_at(text, before_key + 1)
  local till = first and UniqueText.modes()[string.sub(text, behind)]
  if till then return envelope, sent, watched, after, string.sub(text, first, behind - 1), till end
end

-- For a fresh record: its envelope, the position of SENT, the record of its first run, its key, and until when
-- that is held. Nil for any other record. `run` is the result of `run_by`, followed by STARTED.
function UniqueText.begin_first(text, run)
  local envelope, sent, watched, _, key, till = UniqueText.cut(text, UNRUN)
  if not envelope then return nil end
  local record = string.sub(text, 1, sent + TIME - 1) .. run .. UNWATCHED .. string.sub(text, watched)
  return string.sub(text, envelope, sent - 1), sent, record, key, till
end

-- For the record of a first run under this claim: when the job was sent, packed; the channels that wait for it, or
-- false; what its record has after ENDED once it has succeeded; and its key. Nil for any other record. `run` is as
-- above, followed by UNWATCHED.
function UniqueText.read_first(text, run)
  local _, sent, watched, after, key = UniqueText.cut(text, run)
  if not sent then return nil end
  local waiters = after > watched + 1 and string.sub(text, (string_at(text, watched)), after - 1)
  return string.sub(text, sent, sent + TIME - 1), waiters, FALSE .. string.sub(text, after), key
end
