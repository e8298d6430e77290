"""What a worker does all the time, one duty a file. No duty imports another: `aioq.worker.worker` connects them.

Imports `run` and the single modules of `worker/`.
"""
