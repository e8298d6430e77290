"""Where jobs are kept: the contract that every store fulfils, and the stores in `redis/` and `memory/`.

The users of a store import the contract; only `connector` (it finds the server) and `testing` know which store
it is. `contract` has the verbs of a job's way, and the parts with the others: `schedules`, `leases`, `pubsub`,
`outbox` and `relay` (what queues send to each other), `flows` (graphs of jobs), `history` (what has ended),
`events` (live events), `diagnosis`, `operating` (the verbs of operators) and its parts `operations`, `pauses`,
`limits`, `story` (of jobs) and `control` (of workers). `new_job` is a job as the stores take it, `outcomes` what
they answer where one is asked for, `columns` are many jobs at once, `extra` is what a job has beside its call,
`bounds` how much one call does at most, `limiters` has the app-wide limiters, `upkeep` what workers do for a
queue all the time, `rooms` the sends that wait where it is full, `refusals` makes what is refused fail alone, and
`shards` says how many each queue has.

Imports `wire`, `jobs`, `config`, `embedded`, `util`, `errors` and `public`; and `store/redis` when a server is
first needed, so that the client library is not imported before.
"""
