"""Tasks, and the registry of an App's tasks.

This package imports `producer` and what is below it.
"""
