"""Tasks, and the registry of an App's tasks.

Imports `flows`, `producer`, `results`, `store`, `wire`, `jobs`, `config`, `util`, `errors` and `public`.
"""
