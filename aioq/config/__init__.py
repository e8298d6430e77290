"""An App's settings: where they come from, and what each may be.

Imports `util` and `errors`.
"""
