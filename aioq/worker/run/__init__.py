"""The run of one claimed job, from decoding it to its settlement.

This package imports `processes` and the single modules of `worker/`.
"""
