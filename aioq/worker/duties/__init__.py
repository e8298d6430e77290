"""The background duties of a worker, one in each file. No duty imports another: `wiring` connects them.

This package imports `run` and the single modules of `worker/`.
"""
