"""Decides which of a duty's repeated errors are logged: decisions only, without a log."""

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError

OUTAGE_TRIES = 6
"""How often in a row the server must be unreachable before it is logged: the duty of the leases logs it sooner,
and most outages end within these 2 s. A guess."""


class Trouble:
    """The errors of one duty since it last worked: each cause is logged once."""

    def __init__(self) -> None:
        self._failures = 0
        self._logged: set[str] = set()

    def failed(self, error: ServerError) -> bool:
        """Note an error; return whether to log it."""
        self._failures += 1
        if isinstance(error, ServerUnavailableError) and self._failures < OUTAGE_TRIES:
            return False
        if isinstance(error, ServerRejectedError) and error.is_login:
            return False  # the server refuses every duty, and the duty of the leases logs it
        is_new = str(error) not in self._logged
        self._logged.add(str(error))
        return is_new

    def healed(self) -> bool:
        """Note that the duty works; return whether an error was logged before."""
        logged, self._logged, self._failures = self._logged, set(), 0
        return bool(logged)
