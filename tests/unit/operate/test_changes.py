"""Changes of workers and pauses, by events and by looks in any order: each is news once."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioq.jobs.events import Event, EventKind
from aioq.operate.changes import MOST_SAVED, Look, QueueChanges, Saved
from aioq.store.leases import WorkerLease
from aioq.store.pauses import NO_PAUSES, PausePeriod, Pauses

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)


def joined(worker: str) -> Event:
    return Event(kind=EventKind.WORKER_JOINED, at=NOW, queue="mail", worker=worker)


def left(worker: str) -> Event:
    return Event(kind=EventKind.WORKER_LEFT, at=NOW, queue="mail", worker=worker)


def paused(task: str) -> Event:
    return Event(kind=EventKind.QUEUE_PAUSED, at=NOW, queue="mail", task=task)


def resumed(task: str) -> Event:
    return Event(kind=EventKind.QUEUE_RESUMED, at=NOW, queue="mail", task=task)


def looked(changes: QueueChanges, *, workers: dict[str, int] | None = None, tasks: str | None = None) -> list[str]:
    """The news of a look: at workers and how long their leases last, or at the tasks that are paused, in words."""
    leases = None if workers is None else [WorkerLease(name, ms, 0) for name, ms in workers.items()]
    spans = None if tasks is None else Pauses(None, {task: PausePeriod(NOW_MS) for task in tasks.split()})
    news = list(changes.compare(Look(leases, spans), NOW_MS))
    for event in news:
        changes.give(event)
    assert {(event.at, event.queue) for event in news} <= {(NOW, "mail")}
    return [" ".join(filter(None, (event.kind, event.worker, event.task, event.error))) for event in news]


def test_the_first_look_is_no_news() -> None:
    changes = QueueChanges("mail", None)
    assert looked(changes, workers={"a": 5, "dead": 0}, tasks="add") == []
    assert not changes.note(joined("a"))
    assert not changes.note(left("dead")), "it was gone when the stream began"
    assert not changes.note(paused("add"))
    assert changes.note(left("a"))
    assert looked(changes, workers={}, tasks="add") == []


def test_what_has_no_event_is_news_by_a_look() -> None:
    changes = QueueChanges("mail", None)
    assert looked(changes, workers={"a": 5, "b": 5}, tasks="add") == []
    changes.begin_look()
    assert looked(changes, workers={"a": 0, "c": 5}, tasks="buy") == [
        "worker_joined c",
        "worker_left a its lease has ended",
        "worker_left b",
        "queue_resumed add",
        "queue_paused buy",
    ]
    assert not changes.note(left("a")), "its recovery comes later"
    assert not changes.note(resumed("add"))
    assert changes.note(paused("add"))


def test_what_events_were_about_since_the_look_is_not_compared() -> None:
    changes = QueueChanges("mail", None)
    looked(changes, workers={"a": 5}, tasks="add")
    changes.begin_look()
    assert [changes.note(each) for each in (left("a"), joined("b"), resumed("add"), paused("buy"))] == [True] * 4
    assert looked(changes, workers={"a": 5}, tasks="add") == []
    changes.begin_look()
    assert looked(changes, workers={"b": 5}, tasks="buy") == []


def test_a_lease_that_is_renewed_after_its_end_is_news() -> None:
    changes = QueueChanges("mail", None)
    looked(changes, workers={"a": 5})
    assert looked(changes, workers={"a": 0}) == ["worker_left a its lease has ended"]
    assert looked(changes, workers={"a": 5}) == ["worker_joined a"]


def test_a_stream_that_goes_on_knows_what_was_reported() -> None:
    changes = QueueChanges("mail", None)
    looked(changes, workers={"a": 5, "b": 5}, tasks="add buy")
    looked(changes, workers={"a": 0, "b": 5}, tasks="buy")
    assert changes.saved == Saved(["a"], {"add": False, "buy": True})
    following = QueueChanges("mail", changes.saved)
    assert looked(following, workers={"a": 0, "b": 0, "c": 5}, tasks="add") == [
        "worker_left b its lease has ended",
        "queue_resumed buy",
        "queue_paused add",
    ]
    assert not following.note(left("a"))


def test_a_cursor_has_what_was_given_and_not_what_was_only_read() -> None:
    changes = QueueChanges("mail", None)
    looked(changes, tasks="")
    changes.pass_all()
    assert changes.note(paused("add"))
    assert changes.note(resumed("add"))
    assert changes.saved.pauses == {}
    changes.give(paused("add"))
    assert changes.saved.pauses == {"add": True}
    changes.give(resumed("add"))
    changes.pass_all()
    assert changes.saved.pauses == {}


def test_a_cursor_is_not_large() -> None:
    changes = QueueChanges("mail", None)
    many = {f"w{number}": 0 for number in range(2 * MOST_SAVED)}
    looked(changes, workers=many, tasks=" ".join(many))
    changes.pass_all()
    assert len(changes.saved.gone) == MOST_SAVED
    assert changes.saved.pauses is None


def test_what_a_look_does_not_list_any_more_is_forgotten() -> None:
    changes = QueueChanges("mail", None)
    looked(changes, workers={"a": 5})
    looked(changes, workers={"a": 0})
    assert changes.saved.gone == ["a"]
    looked(changes, workers={})
    changes.pass_all()
    assert changes.saved.gone == []


def test_nobody_wants_to_know() -> None:
    assert list(QueueChanges("mail", None).compare(Look(None, None), NOW_MS)) == []
    assert list(QueueChanges("mail", None).compare(Look(None, NO_PAUSES), NOW_MS)) == []


@dataclass
class Server:
    """A server that has workers, and a stream that reads it.

    Attributes:
        alive: by worker, whether its lease lasts; a worker without one is not there.
        log: what is recorded.
        shown: by worker, whether it came, each time that this was shown.
    """

    alive: dict[str, bool] = field(default_factory=dict[str, bool])
    log: list[Event] = field(default_factory=list[Event])
    shown: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    changes: QueueChanges = field(default_factory=lambda: QueueChanges("mail", None))
    look: Look | None = None

    def step(self, what: str, worker: str) -> None:
        if what == "join" and worker not in self.alive:
            self.alive[worker] = True
            self.log.append(joined(worker))
        elif what == "renew" and worker in self.alive:
            self.alive[worker] = True
        elif what == "lapse" and worker in self.alive:
            self.alive[worker] = False
        elif what == "leave" and self.alive.pop(worker, None) is not None:
            self.log.append(left(worker))
        elif what == "look" and self.look is None:
            self.changes.begin_look()
            leases = [WorkerLease(name, int(lasts), 0) for name, lasts in self.alive.items()]
            self.look = Look(leases, None)
        elif what in {"read", "again"}:
            self.read()
        if what == "again":
            self.changes.pass_all()
            self.changes = QueueChanges("mail", self.changes.saved)

    def read(self) -> None:
        news = [event for event in self.log if self.changes.note(event)]
        self.log.clear()
        if self.look is not None:
            news += self.changes.compare(self.look, NOW_MS)
            self.look = None
        for event in news:
            self.changes.give(event)
            self.shown[event.worker].append(event.kind is EventKind.WORKER_JOINED)

    def finish(self) -> None:
        for what in ("read", "look", "read"):
            self.step(what, "")
        for worker in {*self.shown, *self.alive}:
            shown = self.shown[worker]
            assert all(one != other for one, other in pairwise(shown)), (worker, shown)
            assert (shown or [False])[-1] == self.alive.get(worker, False)


WHAT = ["join", "join", "renew", "lapse", "leave", "look", "read"]


@pytest.mark.parametrize("also", [[], ["again"]], ids=["one stream", "streams that go on"])
def test_whatever_happens_each_change_is_shown_once_and_the_last_is_right(also: list[str]) -> None:
    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from([*WHAT, *also]), st.sampled_from("ab")), max_size=30))
    def walk(steps: list[tuple[str, str]]) -> None:
        server = Server()
        server.step("look", "")
        server.read()
        for step in steps:
            server.step(*step)
        server.finish()

    walk()
