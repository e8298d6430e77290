"""The background duties of a worker, one in each file. No duty imports another: the worker's wiring connects them.

Imports the single modules of `worker`, `worker/run`, `schedules`, `flows`, `store`, `wire`, `jobs`, `util` and
`errors`.
"""
