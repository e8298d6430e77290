"""Where jobs are kept: the contract that every store fulfils, and the stores.

`contract`, `schedules`, `leases`, `pubsub` and `columns` say what a store does; `redis/` and `memory/` do it.
Those who use a store import the contract; only `connector` (which server an
App talks to) and `testing` know which one it is. Imports `wire`, `jobs`, `config`, `embedded` and `util`.
"""
