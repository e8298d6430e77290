"""General helpers: logging that cannot raise, clocks, batching, durations, text for people.

They know nothing of jobs. Imports `errors`.
"""
