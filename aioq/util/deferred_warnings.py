"""Warnings that are logged once in a process, and not before its logging is set up.

A worker learns from its App's settings what its log looks like, and finds what to warn of while it reads them. It
keeps the warnings until then. A process of the pool keeps them for good: its worker has said them.
"""

from aioq.util.log import logger

log = logger("aioq.config")

MOST = 1000
"""How many are said at most: a name in one may be of the user's making."""


class DeferredWarnings:
    """Warnings about what a process was given.

    Attributes:
        kept: what is not said yet; None while it is said at once.
    """

    def __init__(self) -> None:
        self.kept: list[str] | None = None
        self._known: set[str] = set()

    def add(self, words: str) -> None:
        """Say it, now or when it is time to; nothing where it is known."""
        if words in self._known or len(self._known) >= MOST:
            return
        self._known.add(words)
        if self.kept is None:
            log.warning("%s", words)
        else:
            self.kept.append(words)

    def keep(self) -> None:
        """Say nothing until `say`."""
        self.kept = self.kept or []

    def say(self) -> None:
        """Say what was kept, and from now on at once."""
        kept, self.kept = self.kept, None
        for words in kept or ():
            log.warning("%s", words)


DEFERRED = DeferredWarnings()
"""Those of this process."""
