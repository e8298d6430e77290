"""Tasks, and the registry of an App's tasks.

Imports `flows`, `producer`, `results`, `store`, `wire`, `jobs`, `util`, `errors` and `public`.
"""
