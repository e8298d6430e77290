"""Where jobs are kept: the contract that every store fulfils, and the stores.

`contract`, `schedules`, `leases`, `pubsub` and `columns` define a store; `redis/` and `memory/` implement it. The
users of a store import the contract; only `connector` (it finds the server) and `testing` know which store it is.
Imports `wire`, `jobs`, `config`, `embedded` and `util`.
"""
