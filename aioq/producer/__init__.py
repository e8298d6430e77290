"""Sending calls to the server: encode them, pass them through the middleware, gather them in batches, enqueue.

`sender` is the first step, `many` that of several calls, `buffer` and `delivery` are the last ones.

Imports `results`, `limiters`, `store`, `wire`, `jobs`, `config`, `util`, `errors` and `public`.
"""
