"""What a stream of events knows of a queue's workers and pauses, so that it reports each change of them once.

Events say what changes. Some changes have none: those while nobody listens; the end of a dead worker's lease while
no other worker is there to recover it; the end of a pause that no worker has noticed yet. So a stream also looks,
now and then, at what is there. What it finds so may be followed by its event, which is then no news.

A look is compared only after all events up to it are read, and not for what these or later ones were about. So
whatever happens meanwhile, nothing is lost and nothing comes twice.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from aioq.jobs.events import OF_QUEUES, PRESENCE, Event, EventKind
from aioq.results.events import LEASE_ENDED
from aioq.store.leases import WorkerLease
from aioq.store.pauses import Pauses

MOST_SAVED = 100
"""The most names of each kind that a cursor has; where there are more, a change may come twice after it."""


_LOOKED_AT = frozenset((*PRESENCE, *OF_QUEUES))
"""The kinds of what a look shows too."""


class Saved(msgspec.Struct, frozen=True):
    """What a cursor keeps of this. Which workers live is not kept, for these may be very many.

    Attributes:
        gone: workers that were reported to have left, though no event has said so yet.
        pauses: by task, "" for the whole queue: whether it is paused, or was reported to be no more, likewise.
            None if that is not known.
    """

    gone: Sequence[str] = ()
    pauses: Mapping[str, bool] | None = None


class QueueChanges:
    """What is known of one queue.

    Args:
        queue: the queue.
        saved: what a cursor has; None if the stream begins here.
    """

    def __init__(self, queue: str, saved: Saved | None) -> None:
        self._queue = queue
        self._continues = saved is not None
        pauses = None if saved is None else saved.pauses
        self._workers = _Known(dict.fromkeys(() if saved is None else saved.gone, False))
        self._pauses = _Known(pauses or {}, is_whole=pauses is not None)
        self._given = [dict(self._workers.there), dict(self._pauses.there)]  # as known after what was given

    def note(self, event: Event) -> bool:
        """Take note of an event; False if it is no news. Pauses of workers, which no look shows, always are."""
        if event.kind not in _LOOKED_AT:
            return True
        known, name, is_there = self._known_of(event)
        return known.note(name, is_there=is_there)

    def give(self, event: Event) -> None:
        """Take note that the stream has given an event."""
        if event.kind not in _LOOKED_AT:
            return
        known, name, is_there = self._known_of(event)
        self._given[known is self._pauses][name] = is_there

    def pass_all(self) -> None:
        """Take note that the stream has given all that is known."""
        self._given = [dict(self._workers.there), dict(self._pauses.there)]

    @property
    def saved(self) -> Saved:
        """What a cursor needs after what was given."""
        workers, pauses = self._given
        gone = [name for name, is_there in workers.items() if not is_there]
        is_known = self._pauses.is_whole and len(pauses) <= MOST_SAVED
        return Saved(gone[:MOST_SAVED], pauses if is_known else None)

    def begin_look(self) -> None:
        """Take note that a look begins: what events are about from now on is not compared with it."""
        self._workers.noted.clear()
        self._pauses.noted.clear()

    def compare(self, look: "Look", now_ms: int) -> Iterator[Event]:
        """What a look shows that is news.

        Args:
            look: what was there.
            now_ms: the server's time, in milliseconds since the Unix epoch.
        """
        now = _moment(now_ms)
        if look.workers is not None:
            alive = {each.worker: each.lease_ms > 0 for each in look.workers}
            come, gone = self._workers.compare(alive, tells_ended=self._continues)
            self._workers.forget_gone(alive)
            self._give_others(self._workers, {*come, *gone})
            for worker in come:
                yield Event(kind=EventKind.WORKER_JOINED, at=now, queue=self._queue, worker=worker)
            for worker in gone:
                why = LEASE_ENDED if worker in alive else ""
                yield Event(kind=EventKind.WORKER_LEFT, at=now, queue=self._queue, worker=worker, error=why)
        if look.pauses is not None:
            since = _since(look.pauses)
            come, gone = self._pauses.compare(dict.fromkeys(since, True))  # one that is over may still be there
            self._give_others(self._pauses, {*come, *gone})
            for task in gone:
                yield Event(kind=EventKind.QUEUE_RESUMED, at=now, queue=self._queue, task=task)
            for task in come:
                yield Event(kind=EventKind.QUEUE_PAUSED, at=_moment(since[task]), queue=self._queue, task=task)

    def _give_others(self, known: "_Known", news: Collection[str]) -> None:
        """Take note of what is known, but for what is news and what events were about: these are given later."""
        others = {name: is_there for name, is_there in known.there.items() if name not in {*news, *known.noted}}
        self._given[known is self._pauses] |= others

    def _known_of(self, event: Event) -> "tuple[_Known, str, bool]":
        if event.kind in PRESENCE:
            return self._workers, event.worker, event.kind is EventKind.WORKER_JOINED
        return self._pauses, event.task, event.kind is EventKind.QUEUE_PAUSED


class Look(msgspec.Struct, frozen=True):
    """What is there.

    Attributes:
        workers: the workers of the queue; None if nobody wants to know.
        pauses: what is paused, likewise.
    """

    workers: Sequence[WorkerLease] | None
    pauses: Pauses | None


class _Known:
    """What is known to be there, by name.

    Attributes:
        there: whether it is there; False for what was found to be gone before an event has said so. What is not in
            it is gone, or not known.
        noted: what events were about since the last look began.
        is_whole: whether it is known of all of it.
    """

    def __init__(self, there: Mapping[str, bool], *, is_whole: bool = False) -> None:
        self.there = dict(there)
        self.noted: set[str] = set()
        self.is_whole = is_whole

    def note(self, name: str, *, is_there: bool) -> bool:
        """Take note of an event; False if that is known."""
        self.noted.add(name)
        before = self.there.pop(name, None)
        if is_there:
            self.there[name] = True
        return before is not is_there

    def compare(self, found: Mapping[str, bool], *, tells_ended: bool = False) -> tuple[list[str], list[str]]:
        """What has come, and what is gone, by a look; both sorted. The first look only shows what there is.

        Args:
            found: what there is: False for a worker whose lease has ended.
            tells_ended: whether the first look shows what is gone by such a lease, because it was there before.
        """
        names = [name for name in sorted({*found, *self.there}) if name not in self.noted]
        come = [each for each in names if found.get(each) and not self.there.get(each)]
        gone = [each for each in names if not found.get(each) and self.there.get(each)]
        ended = [each for each in names if not found.get(each, True) and each not in self.there]
        news = come if self.is_whole else [each for each in come if each in self.there]
        news_gone = gone if self.is_whole or not tells_ended else sorted((*gone, *ended))
        self.there |= {**dict.fromkeys(come, True), **dict.fromkeys((*gone, *ended), False)}
        self.is_whole = True
        return news, news_gone

    def forget_gone(self, listed: Iterable[str]) -> None:
        """Forget what is gone and was not listed by a look: no event says so any more."""
        kept = {*listed, *self.noted}
        self.there = {name: is_there for name, is_there in self.there.items() if is_there or name in kept}


def _since(pauses: Pauses) -> Mapping[str, int]:
    """Since when something is paused, in ms: by the name of a task, "" for the whole queue."""
    whole = {} if pauses.whole is None else {"": pauses.whole.since_ms}
    return {**whole, **{task: span.since_ms for task, span in pauses.tasks.items()}}


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
