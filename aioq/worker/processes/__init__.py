"""Tasks with `executor="process"`: the pool of child processes, the child, and what they say to each other.

Imports the single modules of `worker/`.
"""
