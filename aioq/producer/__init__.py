"""Sending calls to the server: encode them, pass them through the middleware, gather them in batches, enqueue.

`sender` is the first step, `buffer` and `delivery` are the last ones. This package imports `results` and what is
below it.
"""
