"""Tasks with `executor="process"`: the pool of child processes, the child's side, and the protocol between them.

This package imports the single modules of `worker/`.
"""
