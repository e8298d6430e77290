"""An App's settings: their sources, and the checks of their values.

Imports `util`, `errors` and `public`.
"""
