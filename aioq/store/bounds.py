"""How much one call of a store does at most, so that it never blocks the server for long."""

CLAIM_LIMIT = 1_048_576
"""A claim takes no further job once it has this many bytes of envelopes, so that its reply arrives in time over
any network."""

SKIPPED_LIMIT = 2_000
"""The most jobs and entries that one claim skips, so that it never blocks the server for long."""

ASIDE_COST = 4
"""As how many skipped jobs one counts that a claim sets aside because its task is paused: it takes longer."""

BATCH_COST = 4
"""The same of each job of a batch, also of one that is taken: a claim that takes 500 of them has done enough."""

WAIT_LIMIT = 1_048_576
"""The most bytes of outcomes in one reply to a wait, so that it arrives in time over a slow network too. The first
outcome is always in it, whatever its size."""
