-- Reads the entries of lanes; see lib/lanes.lua.
--
-- NEEDS: nothing
local Entries = {}

-- The UTF-8 sequences of more than one byte; see RFC 3629, section 4.
Entries.UTF8 = {
  '[\194-\223][\128-\191]',
  '\224[\160-\191][\128-\191]',
  '[\225-\236\238\239][\128-\191][\128-\191]',
  '\237[\128-\159][\128-\191]',
  '\240[\144-\191][\128-\191][\128-\191]',
  '[\241-\243][\128-\191][\128-\191][\128-\191]',
  '\244[\128-\143][\128-\191][\128-\191]',
}
function Entries.is_text(id)
  if not string.find(id, '[\128-\255]') then return true end
  for _, sequence in ipairs(Entries.UTF8) do id = string.gsub(id, sequence, '') end
  return not string.find(id, '[\128-\255]')
end

-- The most jobs that one entry may name. A later version of aioq may write more than this one does, but an entry
-- with hundreds of thousands is not aioq's.
Entries.NAMED_LIMIT = 512

-- What an entry has: the prefix, the width and the joined rests of several ids, or the id of one job ('' for a
-- wake-up) and nothing else. Nil if it is not aioq's: it lacks the fields, or has an id that no client can have.
function Entries.parts_of(entry)
  local named = {}
  local fields = entry[2] or {}
  for i = 1, #fields, 2 do named[fields[i]] = fields[i + 1] end
  local id, ids, width = named.job, named.ids, tonumber(named.width)
  if id and Entries.is_text(id) then return id end
  local fits = ids and width and width >= 1 and #ids % width == 0 and #ids <= width * Entries.NAMED_LIMIT
  if fits and named.prefix and Entries.is_text(named.prefix .. ids) then return named.prefix, width, ids end
  return nil
end

-- The tokens that share an entry; nil if it has none.
function Entries.tokens_of(entry)
  local fields = entry[2] or {}
  if fields[1] ~= 'tokens' or #fields ~= 2 then return nil end
  local readable, tokens = pcall(cmsgpack.unpack, fields[2])
  if not readable or type(tokens) ~= 'table' or #tokens > Entries.NAMED_LIMIT then return nil end
  for _, token in ipairs(tokens) do
    if type(token) ~= 'string' or string.byte(token) ~= 9 then return nil end
  end
  return tokens[1] and Entries.is_text(table.concat(tokens)) and tokens
end

-- The ids of the jobs that an entry names: none for a wake-up. If it is not aioq's, there are none, and the second
-- value is the entry's own id.
function Entries.named_by(entry)
  local prefix, width, ids = Entries.parts_of(entry)
  local tokens = not prefix and Entries.tokens_of(entry)
  if tokens then return tokens end
  if not prefix then return {}, entry[2] and entry[2][1] and entry[1] or nil end
  if not width then return prefix ~= '' and {prefix} or {} end
  local found = {}
  for i = 1, #ids, width do found[#found + 1] = prefix .. string.sub(ids, i, i + width - 1) end
  return found
end

-- How many jobs an entry names; none if it has the token of a group.
function Entries.count_in(entry)
  local prefix, width, ids = Entries.parts_of(entry)
  if not prefix then return 0 end
  return width and #ids / width or prefix ~= '' and string.byte(prefix) ~= 9 and 1 or 0
end
