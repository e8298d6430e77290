"""Warnings that a process logs once, and not before its logging is set up.

A worker's log is set up from the App's settings, but some warnings arise while these settings are read. So the
worker keeps them until its log is ready. A process of the pool never logs them, because its worker has done so.
"""

from aioq.util.log import logger

log = logger("aioq.config")

MOST = 1000
"""The most warnings that are logged: they can contain names from outside, of which there is no limit."""


class DeferredWarnings:
    """Warnings about the configuration of a process.

    Attributes:
        kept: the warnings that are not logged yet; None while they are logged at once.
    """

    def __init__(self) -> None:
        self.kept: list[str] | None = None
        self._known: set[str] = set()

    def add(self, words: str) -> None:
        """Log a warning, now or later; a repeated one is ignored."""
        if words in self._known or len(self._known) >= MOST:
            return
        self._known.add(words)
        if self.kept is None:
            log.warning("%s", words)
        else:
            self.kept.append(words)

    def keep(self) -> None:
        """Keep warnings from now on until `say`."""
        self.kept = self.kept or []

    def say(self) -> None:
        """Log the kept warnings, and later ones at once."""
        kept, self.kept = self.kept, None
        for words in kept or ():
            log.warning("%s", words)


DEFERRED = DeferredWarnings()
"""The deferred warnings of this process."""
