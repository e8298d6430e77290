"""The wire format: envelopes and outcomes as MessagePack, and the checks that values arrive as they were sent.

Imports `jobs`, `util` and `errors`.
"""
