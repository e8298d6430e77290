"""An App's settings: their sources, and the checks of their values.

Imports `jobs`, `util`, `errors` and `public`.
"""
