"""A job: its states, options and retries, the context that its task sees, and the middleware around it.

Imports `util`, `errors` and `public`.
"""
