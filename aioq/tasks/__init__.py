"""Tasks, as they are declared, and the registry of those of an App.

Imports `producer` and below.
"""
