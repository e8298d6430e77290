"""When a worker says something of itself."""

from pathlib import Path

import msgspec
import pytest

from aioq.worker import about as module
from aioq.worker.about import About, Announcer, WorkerFigures, decode_about, resident_memory

ABOUT = About(
    host="h", pid=1, version="1", python="3", queues=("a",), slots=1, lease_ms=1, figures=WorkerFigures(rss=1000)
)


class Says:
    """A worker of two queues whose figures the test sets."""

    def __init__(self) -> None:
        self.about, self.home = ABOUT, "a"
        self.announcer = Announcer(lambda: self.about, lambda: self.home)

    def figures(self, **values: float) -> None:
        self.about = msgspec.structs.replace(ABOUT, figures=msgspec.structs.replace(ABOUT.figures, **values))

    def revs(self, *calls: tuple[str, str]) -> list[int]:
        """The number of what it says with each renewal; 0 for nothing."""
        said = [decode_about(self.announcer.due(queue, mode)) for queue, mode in calls]  # pyright: ignore[reportArgumentType]
        return [each.rev if each else 0 for each in said]


def test_it_says_what_it_is_and_what_has_changed_once_in_each_queue() -> None:
    says = Says()
    assert says.revs(("a", "join"), ("b", "join"), ("a", ""), ("a", "sweep"), ("b", "sweep")) == [1, 2, 0, 0, 0]
    says.announcer.changed()
    assert says.revs(("b", ""), ("a", ""), ("a", ""), ("b", "")) == [3, 4, 0, 0]
    says.announcer.failed("a")  # that renewal
    assert says.revs(("b", ""), ("a", ""), ("a", "")) == [0, 5, 0]
    says.home = "b"  # it has left the other one
    assert says.revs(("a", ""), ("b", ""), ("b", "")) == [0, 6, 0]


def test_what_changes_while_it_is_described_is_said_once_more() -> None:
    announcer = Announcer(lambda: (announcer.changed(), ABOUT)[1], lambda: "a")
    assert [decode_about(announcer.due("a", mode)) is not None for mode in ("join", "", "")] == [True] * 3


@pytest.mark.parametrize(
    ("figures", "is_reported"),
    [
        ({"rss": 1050, "loop_lag": 0.05}, False),
        ({"rss": 1200}, True),
        ({"loop_lag": 0.2}, True),
        ({"jobs_run": 1}, True),
        ({"refused": 1}, True),
        ({"reconnects": 1}, True),
    ],
)
def test_figures_are_reported_with_a_sweep_once_they_have_changed_much(
    figures: dict[str, float], is_reported: bool
) -> None:
    says = Says()
    assert says.revs(("a", "join")) == [1]
    says.figures(**figures)
    assert says.revs(("a", ""), ("a", "sweep"), ("a", "sweep")) == [0, 2 if is_reported else 0, 0]


def test_what_cannot_be_read_says_nothing_and_new_fields_are_passed_over() -> None:
    assert decode_about(b"") is None
    assert decode_about(b"\xc1") is None
    newer = msgspec.msgpack.encode({**msgspec.to_builtins(ABOUT), "colour": "blue"})
    assert decode_about(newer) == ABOUT


def test_the_memory_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = resident_memory()
    assert memory is not None
    assert memory > 1_000_000
    monkeypatch.setattr(module, "Path", lambda _: Path("/nowhere"))  # there is no /proc
    peak = resident_memory()
    assert peak is not None
    assert peak > 1_000_000
