"""Tasks, and the registry of an App's tasks.

Imports `producer`, `results`, `store`, `wire`, `jobs`, `util`, `errors` and `public`.
"""
