"""The filter that is typed: words, and patterns with a name. Pure."""

import re
import shlex
from dataclasses import dataclass, field

from aioq.errors import ConfigError
from aioq.jobs.job import JobInfo
from aioq.operate.arguments import Parameters
from aioq.operate.filters import Filters, any_of, pattern_of
from aioq.store.operating import ALWAYS, Listed
from aioq.util.suggestions import did_you_mean

NAMES = ("queue", "task", "tag", "error", "worker")
"""What a pattern can be about."""

_NAMED = re.compile(r"(?P<name>[a-z_]+)=(?P<value>.*)", re.DOTALL)
_WHERE = "filter"
_NO_PARAMETERS = Parameters(lambda _: None)  # arguments are no filter here


@dataclass(frozen=True)
class Filter:
    """A filter.

    Attributes:
        text: what was typed.
        queue: a pattern of the names of queues that are shown.
        filters: what jobs must match.
        words: what a job must show somewhere, in small letters; all of them.
    """

    text: str = ""
    queue: str = "*"
    filters: Filters = field(default_factory=Filters)
    words: tuple[str, ...] = ()

    def fits_queue(self, name: str) -> bool:
        """Whether a queue is shown."""
        return any_of([self.queue])(name)

    def fits(self, info: JobInfo) -> bool:
        """Whether a job is shown."""
        error = "" if info.error is None else info.error.summary
        return (
            self.fits_queue(info.queue)
            and self.filters.match(Listed((), info), ALWAYS, _NO_PARAMETERS)
            and self.fits_text(info.id, info.task, info.queue, info.worker or "", error, *info.tags)
        )

    def fits_worker(self, worker: str) -> bool:
        """Whether a worker is shown, by its id."""
        pattern = self.filters.worker
        return (pattern is None or any_of([pattern])(worker)) and self.fits_text(worker)

    def fits_text(self, *texts: str) -> bool:
        """Whether these texts show all the words."""
        shown = "\n".join(texts).lower()
        return all(word in shown for word in self.words)


def parse_filter(text: str) -> Filter:
    """The filter that was typed, such as `charge error="Timeout*"`.

    Raises:
        ConfigError: there is no such name, a pattern is wrong, or a quotation mark is not closed.
    """
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{_WHERE}: {error}") from None
    named: dict[str, list[str]] = {}
    words: list[str] = []
    for part in parts:
        found = _NAMED.fullmatch(part)
        if found is None:
            words.append(part.lower())
        else:
            named.setdefault(_known(found["name"]), []).append(pattern_of(found["name"], found["value"], _WHERE))
    filters = Filters(
        tasks=named.get("task"),
        tags=named.get("tag", ()),
        error=_one(named, "error"),
        worker=_one(named, "worker"),
    )
    return Filter(text.strip(), _one(named, "queue") or "*", filters, tuple(words))


def _known(name: str) -> str:
    if name not in NAMES:
        known = ", ".join(NAMES)
        raise ConfigError(f"{_WHERE}: unknown name {name!r}{did_you_mean(name, NAMES)}; there are: {known}")
    return name


def _one(named: dict[str, list[str]], name: str) -> str | None:
    values = named.get(name, [None])
    if len(values) > 1:
        raise ConfigError(f"{_WHERE}: {name}= is given more than once")
    return values[0]
