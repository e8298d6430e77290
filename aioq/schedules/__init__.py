"""Periodic jobs: cron lines and intervals, how they are declared, and what becomes of each tick.

`timing` and `tick_plan` decide, `reconcile` and `ticks` write what was decided, `manager` is `app.schedules`. The
worker's ticker calls it.

Imports `tasks`, `producer`, `results`, `store`, `wire`, `jobs`, `util`, `errors` and `public`.
"""
