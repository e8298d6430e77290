"""A job: its state, its options, how it is retried, what its task sees of it, and the middleware around it.

Imports `util` and `errors`.
"""
