"""What a worker holds: the jobs it was given and whose outcome the server does not have yet.

The server keeps the same list. They differ when a claim's reply was lost on the way: then the server has given
this worker jobs that it does not know of, which no worker would run as long as its lease lasts. So the first claim
after a broken connection says what is known here, and brings the rest.
"""


class HeldJobs:
    """The jobs of one queue that this worker holds, each under its claim. Written by the worker's wiring only."""

    def __init__(self) -> None:
        self._claims: dict[str, int] = {}

    def add(self, job_id: str, claim: int) -> None:
        """A job was claimed."""
        self._claims[job_id] = claim

    def discard(self, job_id: str, claim: int) -> None:
        """An outcome is written. A retry may have been claimed anew already: that later claim stays."""
        if self._claims.get(job_id) == claim:
            del self._claims[job_id]

    def clear(self) -> None:
        """The lease was lost, and everything with it."""
        self._claims.clear()

    def ids(self) -> frozenset[str]:
        """What is held now."""
        return frozenset(self._claims)
