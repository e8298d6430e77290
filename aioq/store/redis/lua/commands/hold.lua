-- Notes once more which jobs a worker holds, of those that it knows of and the note has not; nothing where it has lost its
-- lease.
--
-- NEEDS: base, common, record_text_write, record_text_read, record, holding
-- KEYS: 1 base key
-- ARGV: 1 worker, then job ids
-- REPLY: nothing
local ids = {}
for i = 2, #ARGV do ids[#ids + 1] = ARGV[i] end
if not lease_lost(ARGV[1]) then hold_again(ARGV[1], ids) end
return {}
