-- Tells whether the code of a worker that lives declares schedules.
--
-- NEEDS: base, common, owners
-- KEYS: 1 base key
-- ARGV: one per schedule: its id
-- REPLY: {a worker that has not said what its code declares, '' for none; and per schedule a worker whose code
--   declares it, '' for none}
local owner, unsaid = owners()
local reply = {unsaid}
for i = 1, #ARGV do reply[#reply + 1] = owner[ARGV[i]] or '' end
return reply
