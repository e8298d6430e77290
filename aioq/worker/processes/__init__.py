"""Tasks with `executor="process"`: the pool of child processes, the child's side, and the protocol between them.

Imports the single modules of `worker`, `tasks`, `wire`, `jobs`, `util` and `errors`.
"""
