"""The worker's duties: one file each, which no other one imports; `aioq.worker.worker` connects them.

A duty has `run()`, which works until it is cancelled, and where an orderly end takes more than that, `stop()`.
"""
