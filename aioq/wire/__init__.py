"""What travels: envelopes and outcomes as MessagePack, and which values arrive as they were sent.

Imports `jobs`, `util` and `errors`.
"""
