"""What any program could use: logging that cannot raise, clocks, batching, durations, text for people.

Knows nothing of jobs. Imports `aioq.errors` only.
"""
