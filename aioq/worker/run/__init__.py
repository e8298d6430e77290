"""What becomes of one job that was claimed, from its decoding to its settlement.

Imports `processes` and what stands beside this package in `worker/`.
"""
