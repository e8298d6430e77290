"""Which server an App talks to, and the way there.

Imports `producer`, `store` and below.
"""
