"""Tasks with `executor="process"`: the pool of child processes, the child, and what they say to each other.

Imports what stands beside this package in `worker/`.
"""
