import asyncio
import logging
import re
import threading
import time
from collections.abc import Iterator

import pytest

from aioq.worker.duties import watchdog as module
from aioq.worker.duties.watchdog import Watchdog
from tests.unit.kit import running, turns, until, within

pytestmark = pytest.mark.anyio

LIMIT = 0.05


class Seen(logging.Handler):
    """Tells a blocked event loop what was logged meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.facts: list[tuple[str, float]] = []
        self.fresh = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.fresh:
            self.texts.append(record.getMessage())
            self.facts.append((record.__dict__["event"], record.__dict__["duration"]))
            self.fresh.notify_all()

    def block_until(self, pattern: str, times: int = 1) -> None:
        def found() -> bool:
            return sum(bool(re.search(pattern, text)) for text in self.texts) >= times

        with self.fresh:
            assert self.fresh.wait_for(found, 10), self.texts


@pytest.fixture
def seen() -> Iterator["Seen"]:
    handler = Seen()
    logging.getLogger("aioq.worker").addHandler(handler)
    yield handler
    logging.getLogger("aioq.worker").removeHandler(handler)


async def test_the_job_that_blocks_the_loop_is_named_with_its_stack_while_it_does(seen: Seen) -> None:
    async def a_slow_thing() -> float:
        seen.block_until("blocks the event loop")  # returns as soon as the watchdog has spoken
        return watchdog.lag

    watchdog = Watchdog(LIMIT)
    async with running(watchdog.run()):
        lag = await within(asyncio.create_task(a_slow_thing(), name="shop.add[x7Gq]"))
        await until(lambda: len(seen.texts) == 2)

    assert lag >= LIMIT
    first, last = seen.texts
    assert re.match(r"shop\.add\[x7Gq\] blocks the event loop, for \d\.\d s by now", first)
    assert "in a_slow_thing" in first
    assert re.fullmatch(r"the event loop was blocked for \d\.\d s by shop\.add\[x7Gq\]", last)
    assert [event for event, _ in seen.facts] == ["loop_blocking", "loop_blocked"]
    by_then, at_last = (seconds for _, seconds in seen.facts)
    assert LIMIT <= by_then <= at_last, "the fields say how long, in seconds"
    assert all(f" {seconds:.1f} s " in text for text, (_, seconds) in zip(seen.texts, seen.facts, strict=True))


async def test_it_is_said_again_ever_more_seldom(seen: Seen) -> None:
    async def block() -> None:
        seen.block_until("blocks the event loop", times=3)

    begun = time.monotonic()
    async with running(Watchdog(LIMIT).run()):
        await within(asyncio.create_task(block(), name="job"))
        await until(lambda: "was blocked" in seen.texts[-1])
    assert time.monotonic() - begun >= LIMIT * (1 + 1 + 2)


async def test_what_blocks_outside_of_any_job_is_shown_by_its_stack(seen: Seen) -> None:
    done = asyncio.Event()

    def callback() -> None:
        seen.block_until("blocks the event loop")
        done.set()

    async with running(Watchdog(LIMIT).run()):
        asyncio.get_running_loop().call_soon(callback)
        await within(done.wait())
        await until(lambda: "was blocked" in seen.texts[-1])
    assert seen.texts[0].startswith("something outside of the jobs blocks the event loop")
    assert "in callback" in seen.texts[0]


async def test_a_loop_that_answers_is_left_in_peace(seen: Seen) -> None:
    watchdog = Watchdog(LIMIT)
    asked: list[int] = []
    ask = watchdog._ask
    watchdog._ask = lambda answered: asked.append(1) is None and ask(answered)  # pyright: ignore[reportAttributeAccessIssue]
    async with running(watchdog.run()):
        await until(lambda: len(asked) >= 3)
    assert seen.texts == []
    assert watchdog.lag < LIMIT


async def test_an_answer_that_comes_far_too_late_reports_a_process_that_was_suspended(seen: Seen) -> None:
    Watchdog(LIMIT)._warn_if_suspended(5 * LIMIT)
    Watchdog(LIMIT)._warn_if_suspended(1.5 * LIMIT)
    assert seen.texts == [
        "this process did not run for 0.2 s: it was stopped, or something held the interpreter lock"
    ]
    assert seen.facts == [("process_suspended", 5 * LIMIT)]


async def test_its_thread_ends_with_it_even_while_the_loop_is_blocked(seen: Seen) -> None:
    watchdog = Watchdog(LIMIT)
    async with running(watchdog.run()):
        await until(watchdog._thread.is_alive)
    await asyncio.to_thread(watchdog._thread.join, 10)
    assert not watchdog._thread.is_alive()


async def test_however_low_the_limit_is_the_loop_has_time_to_answer(monkeypatch: pytest.MonkeyPatch, seen: Seen):
    """Else a worker would log all the time, as fast as it can, that it was suspended."""
    monkeypatch.setattr(module, "MIN_LIMIT", 3600)
    watchdog = Watchdog(1e-9)
    async with running(watchdog.run()):
        await turns()
        watchdog._warn_if_suspended(1.0)
    assert seen.texts == []


async def test_the_longest_lag_is_known_for_a_minute_or_two(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    async def block() -> None:
        seen.block_until("blocks the event loop")

    watchdog = Watchdog(LIMIT)
    assert watchdog.recent_lag == 0.0
    async with running(watchdog.run()):
        await within(asyncio.create_task(block(), name="job"))
        await until(lambda: "was blocked" in seen.texts[-1])
        assert watchdog.recent_lag >= LIMIT
        assert watchdog.stacks().threads[0].name == "MainThread"
        monkeypatch.setattr(module, "MINUTE", 0.0)
        await until(lambda: watchdog.recent_lag < LIMIT)
