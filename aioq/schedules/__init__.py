"""Periodic jobs: cron lines and intervals, how they are declared, and what becomes of each tick.

`definition` and `plan` decide, `reconcile` and `ticks` write what was decided, `manager` is `app.schedules`.
Imports `tasks` and below; the worker's ticker calls it.
"""
