"""Results of jobs in the process that waits for them: handles, `gather`, and the subscription that they use.

This package imports `store` and what is below it.
"""
