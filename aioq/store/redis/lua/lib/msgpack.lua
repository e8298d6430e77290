-- The first bytes of the MessagePack values that scripts read and write as text, as numbers and as strings; see
-- https://github.com/msgpack/msgpack/blob/master/spec.md. They are decimal, because Lua 5.1 reads only that in a
-- string. They are no table, because that took longer; docs/performance.md, "The bytes of MessagePack as a table".
--
-- NEEDS: nothing
local ARRAY_2, ARRAY_8, ARRAY_11 = 146, 152, 155
local SHORT_STRING, SHORT_STRING_END = 160, 192 -- up to 31 bytes; the first byte includes the length
local STRING_8, STRING_16, UINT_64 = 217, 218, 207

local BEGIN_ARRAY_2, BEGIN_ARRAY_8, BEGIN_ARRAY_10, BEGIN_ARRAY_11 = '\146', '\152', '\154', '\155'
local BEGIN_STRING_8, BEGIN_STRING_16, BEGIN_STRING_32, BEGIN_ARRAY_32 = '\217', '\218', '\219', '\221'
local NIL, FALSE, FALSE_8, ONE, NO_ITEMS = '\192', '\194', '\194\194\194\194\194\194\194\194', '\1', '\144'

-- The bytes before a string of up to 65,535 bytes.
local function header(size)
  if size < 32 then return string.char(SHORT_STRING + size) end
  if size < 256 then return BEGIN_STRING_8 .. string.char(size) end
  return BEGIN_STRING_16 .. string.char(math.floor(size / 256), size % 256)
end
local function packed(text) return header(#text) .. text end

-- The positions of the first byte of the string at `at`, and of the byte after it; nil if there is no string.
local function string_at(text, at)
  local kind, long, short = string.byte(text, at, at + 2)
  if kind == STRING_8 and long then return at + 2, at + 2 + long end
  if kind == STRING_16 and short then return at + 3, at + 3 + long * 256 + short end
  if kind and kind >= SHORT_STRING and kind < SHORT_STRING_END then return at + 1, at + 1 + kind - SHORT_STRING end
end

-- Whether the text ends with the string at a position.
local function ends_with_string(text, at)
  local _, after = string_at(text, at)
  return after == #text + 1
end
