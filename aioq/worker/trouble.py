"""What a duty logs of the errors it meets again and again: decisions alone, without a log."""

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError

OUTAGE_TRIES = 6
"""How many times in a row the server cannot be reached until that is logged: the lease says it sooner, and
most outages end within these 2 s. A guess."""


class Trouble:
    """The errors of one duty since it last worked: each cause is logged once."""

    def __init__(self) -> None:
        self._failures = 0
        self._logged: set[str] = set()

    def failed(self, error: ServerError) -> bool:
        """Note an error; whether it is to be logged."""
        self._failures += 1
        if isinstance(error, ServerUnavailableError) and self._failures < OUTAGE_TRIES:
            return False
        if isinstance(error, ServerRejectedError) and error.is_login:
            return False  # it is refused to all, and the leases say so
        news = str(error) not in self._logged
        self._logged.add(str(error))
        return news

    def healed(self) -> bool:
        """Note that the duty works; whether something was logged that does so again."""
        logged, self._logged, self._failures = self._logged, set(), 0
        return bool(logged)
