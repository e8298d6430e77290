-- Reads the records of jobs that were never run, or are in their first run, as text; see
-- lib/record_text_write.lua, and docs/design.md, "The most common records are read and written as text".
--
-- NEEDS: keys, msgpack, record_text_write
local TIME = 9 -- bytes

-- For a record of one of the first two shapes: its first byte, and the positions of the envelope, of SENT, and of
-- what follows. Nil for any other record.
local function start_of(text)
  local kind = text and string.byte(text)
  if kind ~= ARRAY_2 and kind ~= ARRAY_8 and kind ~= ARRAY_11 then return nil end
  local first, sent = string_at(text, 2)
  if not first or #text < sent + TIME - 1 or string.byte(text, sent) ~= UINT_64 then return nil end
  return kind, first, sent, sent + TIME
end

-- For the record of a first run under this claim: when the job was sent, packed, and the channels that wait for
-- it, or false. Nil for any other record. `run` is the result of `run_by`, followed by STARTED.
local function read_first(text, run)
  local kind, _, sent, rest = start_of(text)
  if not kind or string.sub(text, rest, rest + #run - 1) ~= run then return nil end
  local after = rest + #run
  if kind == ARRAY_8 and #text == after - 1 then return string.sub(text, sent, rest - 1), false end
  local watched = after + #UNWATCHED
  if kind ~= ARRAY_11 or string.sub(text, after, watched - 1) ~= UNWATCHED then return nil end
  if not ends_with_string(text, watched) then return nil end
  return string.sub(text, sent, rest - 1), string.sub(text, (string_at(text, watched)))
end

-- The texts of the records of several jobs, by id; false for a job without one.
local function texts_of(q, ids)
  local texts = {}
  for start = 1, #ids, CHUNK do
    local keys = {}
    for i = start, math.min(start + CHUNK - 1, #ids) do keys[#keys + 1] = Keys.job(q, ids[i]) end
    for i, text in ipairs(redis.call('MGET', unpack(keys))) do texts[ids[start + i - 1]] = text end
  end
  return texts
end
