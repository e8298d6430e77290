"""What a worker does all the time, one duty a file. No duty imports another: `aioq.worker.worker` connects them.

Imports `run` and what stands beside this package in `worker/`.
"""
