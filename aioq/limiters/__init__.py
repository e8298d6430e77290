"""App-wide limiters, as `app.limiter`: what all processes of an App keep to together, in tasks and elsewhere.

`manager` declares them and lists them as `info`, `limiter` is what users hold, `rules` are their numbers,
`headers` what services say; `pools` are what an event loop has of all of them, `pool` of one, with `stock` and
`permits`; `turns` are of jobs that come back rather than wait for long, `wakes` listens for those
that wait, `leases` renews what is held.

Imports `store`, `jobs`, `util`, `errors` and `public`.
"""
