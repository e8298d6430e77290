"""A job's result at the process that waits for it: handles, gathering, and the subscription behind them.

Imports `store` and below.
"""
