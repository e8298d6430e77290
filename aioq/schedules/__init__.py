"""Periodic jobs: cron lines and intervals, how they are declared, and what becomes of each tick.

`timing` and `tick_plan` decide, `reconcile` and `ticks` write what was decided, `manager` is `app.schedules`.
This package imports `tasks` and what is below it; the worker's ticker calls it.
"""
