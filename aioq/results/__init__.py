"""Results of jobs in the process that waits for them: handles, `gather`, and the subscription that they use.

Imports `store`, `wire`, `jobs`, `util`, `errors` and `public`.
"""
