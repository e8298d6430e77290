-- Reads fresh records as text, and makes those of their first runs: what a claim does with most jobs. See
-- lib/record_text_write.lua, and docs/design.md, "The most common records are read and written as text".
--
-- NEEDS: msgpack, record_text_write, record_text_read, record_text_unique
local ClaimText = {}

-- The time in a record's text whose last byte is at this position.
function ClaimText.time_at(text, last)
  local a, b, c, d, e, f = string.byte(text, last - 5, last)
  return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end

-- For a fresh record: its envelope, the time of sending, and the record of its first run; and if it has a unique
-- key, that and until when it is held. Nil for any other record. `run` is the result of `run_by`, followed by
-- STARTED.
function ClaimText.begin(text, run)
  local kind, first, sent, rest = start_of(text)
  if not kind then
    local envelope, at, record, key, till = UniqueText.begin_first(text or '', run)
    if not envelope then return nil end
    return envelope, ClaimText.time_at(text, at + TIME - 1), record, {key, till}
  end
  local envelope = string.sub(text, first, sent - 1)
  if kind == ARRAY_2 and #text == rest - 1 then
    return envelope, ClaimText.time_at(text, rest - 1), BEGIN_ARRAY_8 .. string.sub(text, 2) .. run
  end
  local watched = rest + #UNRUN
  if kind ~= ARRAY_11 or string.sub(text, rest, watched - 1) ~= UNRUN then return nil end
  if not ends_with_string(text, watched) then return nil end
  local record = string.sub(text, 1, rest - 1) .. run .. UNWATCHED .. string.sub(text, watched)
  return envelope, ClaimText.time_at(text, rest - 1), record
end
