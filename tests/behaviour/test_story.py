"""What a user learns of one job: why it waits, what has happened to it, and what its task has logged."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aioq import (
    App,
    ConfigError,
    Event,
    EventKind,
    JobNotFoundError,
    JobState,
    LogLine,
    Progress,
    Queue,
    Retry,
    WhyCode,
    current_job,
)
from aioq.app import internals_of
from aioq.operate import events
from aioq.results.events import ShardEvents
from aioq.worker import Worker
from tests.contract.kit import eventually
from tests.databases import Database

pytestmark = pytest.mark.anyio


async def codes(handle: Any) -> list[str]:
    return [reason.code for reason in (await handle.why()).reasons]


async def test_a_job_says_why_it_waits(server: Database, app_name: str) -> None:
    app = App(app_name, url=server.url)
    charge = app.by_name("shop.charge").options(queue="mail")
    async with app:
        first, second = await charge.send(1), await charge.send(2)
        why = await second.why()
        assert (why.id, why.queue, why.task, why.state) == (second.id, "mail", "shop.charge", JobState.QUEUED)
        assert [reason.code for reason in why.reasons] == ["no_worker", "in_line"]
        assert (why.reasons[1].ahead, why.reasons[1].exact) == (1, True)
        assert str(why) == (
            f"job {second.id} is queued: no worker serves queue 'mail'; "
            "1 job is before it in queue 'mail', priority normal"
        )
        later = await charge.options(delay=60).send(3)
        (reason,) = (await later.why()).reasons
        assert (reason.code, reason.until) == (WhyCode.NOT_DUE, (await later.info()).due_at)
        await first.cancel("not wanted")
        assert (await asyncio.to_thread(first.why_sync)).text.startswith("it was cancelled at 20")
        assert (await asyncio.to_thread(second.why_sync)).reasons[1].ahead == 0
        with pytest.raises(JobNotFoundError):
            await app.handle("none", queue="mail").why()

        assert [(entry.event, entry.why) for entry in await second.timeline()][1:] == [
            ("waiting", "no worker serves queue 'mail'; it is the next in queue 'mail', priority normal")
        ]
        *_, due = await asyncio.to_thread(later.timeline_sync)
        assert (due.event, due.at) == ("scheduled", reason.until)
        assert due.why.startswith("it is not due before ")


async def test_it_says_what_workers_make_of_it() -> None:
    app, started, go = App("shop"), asyncio.Event(), asyncio.Event()

    @app.task(retry=Retry(attempts=2, delay=30))
    async def wait(fails: bool) -> None:
        started.set()
        await go.wait()
        if fails:
            raise TimeoutError("slow")

    async with app.test() as session:
        handle = await wait.send(True)
        await started.wait()
        why = await handle.why()
        (reason,) = why.reasons
        assert (reason.code, reason.worker) == (WhyCode.RUNNING, (await handle.info()).worker)
        go.set()

        async def has_failed() -> bool:
            return await handle.status() is not JobState.RUNNING

        await eventually(has_failed)
        assert await codes(handle) == ["retried_later"]
        await session.drain()
        assert await codes(handle) == ["ended"]


async def test_a_job_that_goes_on_after_its_cancellation_says_so() -> None:
    app, started, cancelled, go = App("shop"), asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.task
    async def tidy() -> None:
        try:
            started.set()
            await go.wait()
        finally:
            cancelled.set()
            await go.wait()

    async with app.test() as session:
        handle = await tidy.send()
        await started.wait()
        await handle.cancel("sold out")
        await cancelled.wait()
        assert await codes(handle) == ["cancelling", "running"]
        text = (await handle.why()).text
        assert text.startswith(
            "its cancellation was asked for (sold out); its function has not ended yet; worker "
        )
        go.set()
        await session.drain()
        assert await codes(handle) == ["ended"]


@pytest.mark.parametrize("kept", ["job", "all"])
async def test_what_a_job_logs_is_kept_with_it(kept: Any) -> None:
    app, go = App("shop", logs=4, logs_from=kept), asyncio.Event()
    library = logging.getLogger("library")

    @app.task(retry=Retry(attempts=2, delay=0))
    async def ship(order: int) -> None:
        job = current_job()
        job.log("order %d", order)
        job.log.warning("late by %(days)s days", {"days": 3})
        library.error("no route")
        job.log.debug("not shown")
        if job.attempt == 1:
            try:
                int("no")
            except ValueError:
                job.log.exception("it broke")
            raise TimeoutError("slow")
        job.log("%d is wrong", "x")
        await go.wait()

    async with app.test() as session:
        handle = await ship.send(7)
        following = [line async for line in follow_until(handle, go, "late", 2)]
        await session.drain()
        lines = await handle.logs()
        assert len(lines) == 4
        assert [line.text for line in lines if line.attempt == 2] == [
            "order 7",
            "late by 3 days",
            *(["library: no route"] if kept == "all" else []),
        ][-4:]
        assert [line.number for line in lines] == list(range(lines[0].number, lines[0].number + 4))
        broken = [line for line in lines if line.text.startswith("it broke")]
        assert all(line.text.endswith("'no'") and line.level == "error" for line in broken)
        assert await handle.logs(after=lines[2].number) == lines[3:]
        assert [line.number for line in following] == sorted({line.number for line in following})
        assert await asyncio.to_thread(handle.logs_sync) == lines
        assert await asyncio.to_thread(lambda: list(handle.follow_logs_sync(after=lines[1].number))) == lines[2:]
        assert await handle.delete()
        with pytest.raises(JobNotFoundError):
            await handle.logs()


async def follow_until(handle: Any, go: asyncio.Event, text: str, attempt: int) -> AsyncIterator[LogLine]:
    """Follow the log to its end; the job may end once such a line was seen."""
    async for line in handle.follow_logs():
        if line.attempt == attempt and line.text.startswith(text):
            go.set()
        yield line


async def test_without_the_setting_no_line_is_kept() -> None:
    app = App("shop")

    @app.task
    async def ship() -> None:
        current_job().log("gone")

    async with app.test():
        handle = await ship.send()
        await handle
        for ask in (handle.logs, lambda: anext(handle.follow_logs())):
            with pytest.raises(ConfigError, match="'logs' is 0"):
                await ask()


@pytest.mark.parametrize("after", ["x", -1, True, None, 1.5])
async def test_what_is_no_number_of_a_line_is_an_error(after: Any) -> None:
    app = App("shop", logs=5)

    @app.task
    async def ship() -> None: ...

    async with app.test():
        handle = await ship.send()
        for ask in (handle.logs, lambda after: anext(handle.follow_logs(after=after))):
            with pytest.raises(ConfigError, match="expected the number of a line, from 0 on"):
                await ask(after=after)


async def seen(stream: AsyncIterator[Event], last: str) -> list[Event]:
    """The events up to the first of this kind."""
    events: list[Event] = []
    async for event in stream:
        events.append(event)
        if event.kind == last:
            break
    return events


def shop(**settings: Any) -> App:
    app = App("shop", **settings)

    @app.task(name="ship", retry=Retry(attempts=2, delay=0))
    async def ship(order: int) -> None:
        current_job().progress(order, 10)
        if order == 3 and current_job().attempt == 1:
            raise TimeoutError("slow")

    return app


async def test_events_come_as_they_happen() -> None:
    app = shop()
    async with app.test() as session:
        stream = app.events(queue="default", kinds=["sent", "started", "progress", "retried", "ended"])
        await stream.start()
        handle = await app.send("ship", 3)
        events = await seen(aiter(stream), "succeeded")
        kinds = [event.kind for event in events]
        # Of reports that come between two reads only the last one is shown.
        assert [kind for kind in kinds[:-2] if kind != "progress"] == ["sent", "started", "retried", "started"]
        assert kinds[-2:] == ["progress", "succeeded"]
        assert {(event.job_id, event.task, event.queue) for event in events} == {(handle.id, "ship", "default")}
        retried = events[kinds.index(EventKind.RETRIED)]
        assert retried.error == "TimeoutError: slow"
        assert retried.worker == events[1].worker != ""
        assert (events[-1].seconds is not None, events[-1].waited is not None) == (True, True)
        assert events[-2].progress == Progress(3, 10)

        # The job's own stream tells what happened before, and ends with the job.
        story = [event.kind async for event in handle.events() if event.kind != "progress"]
        assert story == ["sent", "started", "retried", "started", "succeeded"]
        assert [event.kind for event in await asyncio.to_thread(lambda: list(handle.events_sync()))][
            -1
        ] == "succeeded"

        # A new stream goes on where the other one was left, and misses nothing.
        more = [(await app.by_name("ship").options(delay=delay).send(1)).id for delay in (0, 60)]
        await app.handle(more[1]).cancel("not wanted")
        await session.drain()
        cursor, events = stream.cursor, list[Event]()
        for _ in range(4):
            following = app.events(cursor=cursor, kinds=["ended", "sent"], task=["none", "sh*"])
            events.append(await anext(aiter(following)))
            cursor = following.cursor
        assert {(event.kind, event.job_id) for event in events} == {
            *(("sent", each) for each in more),
            ("succeeded", more[0]),
            ("cancelled", more[1]),
        }
        assert "missed" not in {event.kind for event in events}


async def test_what_was_missed_is_an_event_too() -> None:
    app = shop(history=1)
    async with app.test() as session:
        await app.send("ship", 0)
        await session.drain()
        stream = app.events(kinds="ended")
        await stream.start()
        cursor = stream.cursor
        for number in range(4):
            await app.send("ship", number)
        await session.drain()
        events = await seen(aiter(app.events(kinds="ended", cursor=cursor)), "succeeded")
        assert [event.kind for event in events] == ["missed", "succeeded"]
        # Nobody listened: what was sent and started is not known.
        await session.advance(3600)
        missed = await anext(aiter(app.events(kinds="sent", cursor=cursor)))
        assert (missed.kind, missed.missed) == ("missed", None)
        assert missed.since is not None


async def test_the_end_of_a_job_that_leaves_no_record_is_an_event() -> None:
    app = shop()
    async with app.test() as session:
        handle = await app.by_name("ship").options(result_ttl=0, delay=10).send(1)
        story = handle.events()
        kinds = [(await anext(story)).kind]
        await session.advance(11)
        kinds += [event.kind async for event in story]
        assert [kind for kind in kinds if kind != "progress"] == ["sent", "started", "succeeded"]
        with pytest.raises(JobNotFoundError):
            await handle.info()


@pytest.mark.parametrize("is_found", [False, True], ids=["between two reads", "while it is looked for there"])
async def test_the_end_of_a_job_that_was_moved_and_leaves_no_record_is_an_event(
    monkeypatch: pytest.MonkeyPatch, is_found: bool
) -> None:
    app = shop(queues={"night": Queue()})
    async with app.test() as session:
        handle = await app.by_name("ship").options(result_ttl=0, delay=10).send(1)
        story = app.handle(handle.id).events()
        first = await anext(story)
        assert await handle.move(queue="night")

        async def begin(self: ShardEvents) -> None:
            monkeypatch.setattr(ShardEvents, "begin", original)
            await session.advance(11)
            await self.begin()

        original = ShardEvents.begin
        if is_found:
            monkeypatch.setattr(ShardEvents, "begin", begin)
        else:
            await session.advance(11)
        last = [event async for event in story][-1]
        assert (first.kind, last.kind, last.queue) == ("sent", "succeeded", "night")
        assert last.job_id == handle.id


async def test_what_is_missed_of_a_queue_that_had_no_history_yet() -> None:
    """Which number came first is not known then, so nor is how many were missed."""
    app = shop(history=1)
    async with app.test() as session:
        stream = app.events(kinds="ended")
        await stream.start()
        for number in range(4):
            await app.send("ship", number)
        await session.drain()
        events = await seen(aiter(stream), "succeeded")
        assert [(event.kind, event.missed) for event in events] == [("missed", None), ("succeeded", None)]


async def test_a_queue_that_a_cursor_does_not_have_is_read_from_its_time_on() -> None:
    app = shop()
    async with app.test() as session:
        await app.by_name("ship").options(queue="mail", job_id="before").send(1)
        await app.send("ship", 1)
        await session.drain()
        await session.advance(1)
        stream = app.events(queue="default", kinds="ended")
        await stream.start()
        await app.by_name("ship").options(queue="mail", job_id="after").send(1)
        await session.drain()
        events = await seen(
            aiter(app.events(queue=["default", "mail"], kinds="ended", cursor=stream.cursor)), "succeeded"
        )
        assert [event.job_id for event in events] == ["after"]


async def test_a_rare_event_comes_at_once_behind_very_many_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LEAST_PAUSE", 3600.0)
    app = shop()
    async with app.test() as session:
        stream = app.events(kinds="ended", task="rare")
        await stream.start()
        for _ in range(300):
            await app.send("ship", 1)
        await session.drain()
        await (await app.by_name("rare").options(delay=60).send()).cancel()
        assert (await anext(aiter(stream))).task == "rare"


async def test_what_was_read_stays_if_an_iteration_is_cancelled() -> None:
    app = shop()
    async with app.test() as session:
        stream = app.events(kinds=["progress", "ended"])
        await stream.start()
        await app.send("ship", 1)
        await session.drain()
        found, turns = list[Event](), 0
        while not found or found[-1].kind != "succeeded":
            reading = asyncio.ensure_future(anext(aiter(stream)))
            for _ in range(turns):  # each time it is cancelled a step later
                await asyncio.sleep(0)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                found.append(await reading)
            turns += 1
        assert [event.kind for event in found] == ["progress", "succeeded"]


async def test_a_second_iteration_goes_on_where_the_first_was_left() -> None:
    app = shop()
    async with app.test() as session:
        stream = app.events(kinds="ended")
        await stream.start()
        handles = [await app.send("ship", 1) for _ in range(4)]
        await session.drain()
        found = [(await anext(aiter(stream))).job_id for _ in range(2)]
        following = aiter(app.events(kinds="ended", cursor=stream.cursor))
        assert [(await anext(following)).job_id for _ in range(2)] == [each.id for each in handles[2:]]
        found += [(await anext(aiter(stream))).job_id for _ in range(2)]
        assert found == [each.id for each in handles]


async def test_why_a_job_was_cancelled_is_said_by_all_that_show_it() -> None:
    app = shop()
    async with app.test() as session:
        called_off = await app.by_name("ship").options(delay=60).send(1)
        expired = await app.by_name("ship").options(delay=60, expires=1).send(1)
        await called_off.cancel("sold")
        await app.queue("default").pause()
        await session.advance(62)
        for handle, reason in ((called_off, "sold"), (expired, "expired")):
            assert (await handle.info()).reason == reason
            assert (await handle.timeline())[-1].error == reason
            assert (await handle.why()).text.endswith(f": {reason}")


async def test_a_pause_is_an_event_and_is_why_a_job_waits() -> None:
    app = shop()
    async with app.test():
        stream = app.events(kinds=["queue_paused", "queue_resumed"])
        await stream.start()
        coming = aiter(stream)
        await app.queue("default").pause()
        await app.queue("default").pause(tasks=["ship"])
        handle = await app.send("ship", 1)
        assert (await codes(handle))[:2] == ["queue_paused", "task_paused"]
        found = [await anext(coming), await anext(coming)]
        await app.queue("default").resume()
        await app.queue("default").resume(tasks=["ship"])
        found += [await anext(coming), await anext(coming)]
        assert [(event.kind, event.task) for event in found] == [
            (kind, task) for kind in ("queue_paused", "queue_resumed") for task in ("", "ship")
        ]
        await handle
        stream = app.events(task="ship", kinds=["queue_paused"])
        await stream.start()
        await app.queue("default").pause()
        await app.queue("default").pause(tasks=["ship"])
        assert (await anext(aiter(stream))).task == "ship"


async def test_what_changed_while_nobody_listened_is_found_by_who_comes_back() -> None:
    app, kinds = shop(), ["queue_paused", "queue_resumed"]
    async with app.test() as session:
        stream, queue = app.events(kinds=kinds), app.queue("default")
        await stream.start()
        await queue.pause(tasks=["ship"])
        assert (await anext(aiter(stream))).task == "ship"
        following = app.events(kinds=kinds, cursor=stream.cursor)
        await session.advance(3600)
        await queue.resume(tasks=["ship"])
        await queue.pause()
        for each in (stream, following):
            found = await seen(aiter(each), "queue_paused")
            assert [(event.kind, event.task) for event in found] == [
                ("missed", ""),
                ("queue_resumed", "ship"),
                ("queue_paused", ""),
            ]


async def test_the_workers_of_a_queue_come_and_go(redis_server: Database, app_name: str) -> None:
    app = App(app_name, url=redis_server.url)
    ship = app.task(name="ship")(shop().tasks["ship"].function)
    async with app:
        stream = app.events(kinds=["worker_joined", "worker_left", "succeeded"])
        await stream.start()
        coming = aiter(stream)
        parts = internals_of(app).app_parts()
        worker = Worker(parts, queues=["default"], concurrency=2)
        running = asyncio.create_task(worker.run())
        handle = await ship.send(1)
        found = [await anext(coming)]
        while len(found) < 2:
            found.append(await anext(coming))
        worker.stop()
        await running
        found.append(await anext(coming))
        joined, ended, left = found
        assert [event.kind for event in found] == ["worker_joined", "succeeded", "worker_left"]
        assert (left.worker, left.queue, left.error) == (joined.worker, "default", "")
        assert ended.job_id == handle.id


async def test_wrong_filters_and_no_history_are_errors_that_say_so() -> None:
    app = shop(url="redis://nowhere")
    for given, said in [
        ({"queu": "mail"}, "unknown filter 'queu' (did you mean 'queue'?); there are: queue, task, kinds, cursor"),
        ({"kinds": "stareted"}, "kinds='stareted' (did you mean 'started'?); there are: sent, started,"),
        ({"kinds": []}, "kinds=[]: expected a text, or several"),
        ({"kinds": {"sent": 1}}, "kinds=[{'sent': 1}]: expected a text, or several"),
        ({"queue": "a b"}, "queue 'a b'"),
        ({"cursor": "abc"}, "expected the cursor of a stream"),
    ]:
        with pytest.raises(ConfigError) as error:
            app.events(**given)  # pyright: ignore[reportArgumentType]
        assert said in str(error.value)
    app = shop(history=0)
    with pytest.raises(ConfigError, match="'history' is 0"):
        app.events()
    async with app.test():
        handle = await app.send("ship", 1)
        with pytest.raises(ConfigError, match="'history' is 0"):
            await anext(handle.events())
        with pytest.raises(ConfigError, match="'history' is 0"):
            await handle.timeline()
