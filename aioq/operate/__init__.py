"""Operating an App at run time: what stands in its queues, and how that is changed.

`queues` is the handle of one queue, which `App.queue` returns.
"""
