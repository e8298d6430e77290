"""The run of one claimed job, from decoding it to its settlement.

Imports the single modules of `worker`, `worker/processes`, `tasks`, `producer`, `flows`, `store`, `wire`,
`jobs`, `config`, `util` and `errors`.
"""
