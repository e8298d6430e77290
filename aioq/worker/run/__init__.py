"""What becomes of one job that was claimed, from its decoding to its settlement.

Imports `processes` and the single modules of `worker/`.
"""
