"""What a worker holds: the jobs it was given and whose outcome the server does not have yet.

The server keeps the same list. They differ when a claim's reply was lost on the way: then the server has given
this worker jobs that it does not know of, which nobody would run as long as its lease lasts. So the first claim
after a broken connection says what is known here, and brings the rest.
"""


class Holdings:
    """The ids of the jobs of one queue that this worker holds. Written by the worker's wiring only."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def add(self, job_id: str) -> None:
        """A job was claimed."""
        self._ids.add(job_id)

    def discard(self, job_id: str) -> None:
        """Its outcome is written, or it was lost with the lease."""
        self._ids.discard(job_id)

    def clear(self) -> None:
        """The lease was lost, and everything with it."""
        self._ids.clear()

    def ids(self) -> frozenset[str]:
        """What is held now."""
        return frozenset(self._ids)
