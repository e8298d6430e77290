"""What bad input gets: an error that names it where it is given, one failed job where it arrives, never more."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

import aioq
from aioq import App, ArgumentError, ConfigError, DuplicateTaskError, JobFailed, PayloadTooLargeError
from tests.behaviour.kit import Project, keys, state_is
from tests.databases import Database
from tests.records import put_record

pytestmark = pytest.mark.anyio


def make_app(database: Database, name: str, **settings: Any) -> tuple[App, Any]:
    app = App(name, url=database.url, **settings)

    @app.task(name="bad.add")
    async def add(x: int, y: int) -> int:
        return x + y

    return app, cast("Any", add)


# -- at the send


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((1, object()), {}, "argument 'y' cannot be encoded.*got object"),
        ((1,), {"y": lambda: 1}, "argument 'y' cannot be encoded.*got function"),
        ((1, [1, {"deep": object()}]), {}, "argument 'y' cannot be encoded"),
        ((2**64, 1), {}, "argument 'x' cannot be encoded"),
        ((1, "\ud800"), {}, "argument 'y' cannot be encoded"),
        ((1,), {}, "missing a required argument: 'y'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1, 2), {"z": 3}, "'z'"),
        ((1, 2), {"x": 3}, "multiple values for argument 'x'"),
    ],
)
async def test_bad_arguments_are_an_error_at_the_send_and_nothing_is_stored(
    redis_server: Database, app_name: str, args: tuple[Any, ...], kwargs: dict[str, Any], words: str
) -> None:
    app, add = make_app(redis_server, app_name)
    async with app:
        with pytest.raises(ArgumentError, match=f"(?s)task 'bad.add': .*{words}"):
            await add.send(*args, **kwargs)
        with pytest.raises(ArgumentError, match=r"task 'bad\.add'"):
            await app.send_many([add.call(1, 2), add.call(*args, **kwargs)])

    with redis_server.client() as client:
        assert keys(client, app_name) == []


async def test_an_unencodable_argument_of_a_task_known_by_name_only_is_named_too(
    redis_server: Database, app_name: str
) -> None:
    async with App(app_name, url=redis_server.url) as app:
        with pytest.raises(ArgumentError, match=r"task 'elsewhere\.task': argument 'args\[1\]' cannot be encoded"):
            await app.send("elsewhere.task", 1, object())

    with redis_server.client() as client:
        assert keys(client, app_name) == []


@pytest.mark.parametrize("shape", [lambda handle: handle, lambda handle: {"of": [handle]}])
async def test_a_handle_as_an_argument_is_an_error_that_says_what_to_send_instead(
    redis_server: Database, app_name: str, shape: Callable[[Any], Any]
) -> None:
    app, add = make_app(redis_server, app_name)
    async with app:
        handle = await add.send(1, 2)
        with pytest.raises(ArgumentError, match=r"argument 'y' cannot be encoded.*send handle\.id.*app\.handle\("):
            await add.send(1, shape(handle))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dealy": 1}, "unknown option 'dealy'; did you mean 'delay'"),
        ({"delay": -1}, "delay=-1"),
        ({"delay": "soon"}, "delay='soon'"),
        ({"queue": "a:b"}, "queue 'a:b'"),
        ({"timeout": "x"}, "timeout='x'"),
        ({"retry": 0}, "attempts=0"),
        ({"headers": {"a": 1}}, r"headers\['a'\]=1"),
        ({"priority": "urgent"}, "priority='urgent'"),
        ({"job_id": ""}, "job_id=''"),
    ],
)
def test_a_bad_option_is_an_error_that_names_the_task_and_the_option(
    redis_server: Database, app_name: str, options: dict[str, Any], words: str
) -> None:
    _, add = make_app(redis_server, app_name)

    with pytest.raises(ConfigError, match=f"task 'bad.add': .*{words}"):
        add.options(**options)


async def test_a_call_over_max_payload_is_an_error_at_the_send(redis_server: Database, app_name: str) -> None:
    app = App(app_name, url=redis_server.url)

    @app.task(name="bad.store")
    async def store(data: bytes) -> int:
        return len(data)

    async with app:
        with pytest.raises(PayloadTooLargeError, match=r"task 'bad\.store': .*at most 1048576"):
            await store.send(bytes(1_048_576))
        with redis_server.client() as client:
            assert keys(client, app_name) == []
        await store.send(bytes(1_048_000))


async def test_the_payload_limit_is_a_setting(redis_server: Database, app_name: str) -> None:
    app, add = make_app(redis_server, app_name, max_payload=10)
    async with app:
        with pytest.raises(PayloadTooLargeError, match="at most 10 are sent"):
            await add.send(1, 2)


def test_two_tasks_of_one_name_are_an_error_that_names_both_places(app_name: str) -> None:
    app = App(app_name, url="redis://127.0.0.1:1")

    @app.task(name="twice")
    async def one() -> None: ...

    with pytest.raises(DuplicateTaskError) as caught:

        @app.task(name="twice")
        async def two() -> None: ...

    places = [f"{__file__}:{line}" for line in (_line(one.function), _line(one.function) + 5)]
    assert all(place in str(caught.value) for place in places), caught.value


def _line(function: Any) -> int:
    return function.__code__.co_firstlineno


# -- at the worker


async def test_bad_input_at_the_worker_ends_as_that_jobs_failure(project: Project, redis_server: Database) -> None:
    """One worker, one job after the other: wrong types, garbage of all kinds; then it still works."""
    project.copy("lines")
    lines = project.load("lines")
    worker = await project.ready_worker("lines:app")
    await (await lines.add.send(1, 1))
    base = f"aioq:{{{project.name}:default}}"
    by_name = App(project.name, url=redis_server.url)  # knows no task, so nothing is checked here

    async def fails(*args: Any, **kwargs: Any) -> str:
        handle = await by_name.send("lines.add", *args, **kwargs)
        with pytest.raises(JobFailed) as caught:
            await handle.result(timeout=20)
        assert (await handle.info()).attempts == 1
        return caught.value.error.message

    assert await fails(1, "two") == "$.y: expected int, got str"
    assert await fails(x=None, y=2) == "$.x: expected int, got None"
    assert await fails(1, [1]) == "$.y: expected int, got array"
    assert (await fails(1)).startswith("$: missing a required argument: 'y'")
    assert (await fails(1, 2, 3)).startswith("$: expected at most 2 positional arguments, got 3")
    assert (await fails(1, 2, z=3)).startswith("$.z: no such parameter")

    with redis_server.client() as client:
        for number, garbage in enumerate(
            [b"", b"\xc1\xff", b"hello", b"\x93\x01", msgspec.msgpack.encode({"a": 1})]
        ):
            put_record(client, f"{base}:job:garbage-{number}", garbage)
            client.xadd(f"{base}:normal", {"job": f"garbage-{number}"})
            handle = by_name.handle(f"garbage-{number}")
            with pytest.raises(JobFailed, match="WireError"):
                await handle.result(timeout=20)
        client.xadd(f"{base}:normal", {"job": "no-such-job"})
        client.xadd(f"{base}:normal", {"wrong": "field"})
        client.xadd(f"{base}:normal", {"job": "a", "more": "b"})
        put_record(client, f"{base}:job:half", None)
        client.xadd(f"{base}:normal", {"job": "half"})

    with pytest.raises(JobFailed) as caught:
        await (await lines.fails.send())
    shown = caught.value.error.traceback.splitlines()
    assert shown[1].startswith(f'  File "{project.folder}/lines.py"'), "the traceback begins in aioq's own code"
    assert await (await lines.add.send(20, 22)) == 42
    assert worker.running
    await by_name.aclose()


async def test_garbage_that_redis_itself_refuses_costs_no_other_job(
    project: Project, redis_server: Database
) -> None:
    """A job record that is no hash: the claim that also takes two good jobs meets WRONGTYPE."""
    project.copy("lines")
    lines = project.load("lines")
    base = f"aioq:{{{project.name}:default}}"
    before = await lines.add.send(1, 2)
    with redis_server.client() as client:
        client.set(f"{base}:job:string", "not a hash")
        client.xadd(f"{base}:normal", {"job": "string"})
    after = await lines.add.send(3, 4)

    await project.ready_worker("lines:app")

    assert await (await lines.add.send(5, 6)).result(timeout=20) == 11
    assert await before.result(timeout=20) == 3
    assert await after.result(timeout=20) == 7


async def test_an_overwritten_lane_delays_no_other_lane(project: Project, redis_server: Database) -> None:
    project.copy("lines")
    lines = project.load("lines")
    base = f"aioq:{{{project.name}:default}}"
    with redis_server.client() as client:
        client.set(f"{base}:low", "not a stream")
        worker = await project.ready_worker("lines:app")
        await worker.saw("low holds a string and no stream")

        for number in range(20):  # within the 5 s that one blocking read takes, all of them together
            assert await (await lines.add.send(number, 1)).result(timeout=4) == number + 1

        client.delete(f"{base}:low")
        assert await (await lines.add.options(priority="low").send(40, 2)).result(timeout=20) == 42
    assert await worker.stop() == 0
    assert worker.log.count("no stream") == 1
    assert "WRONGTYPE" not in worker.log


# -- what another worker may know


async def test_a_newer_envelope_and_an_unknown_task_are_kept_for_a_worker_that_knows_them(
    project: Project, redis_server: Database
) -> None:
    project.copy("lines")
    lines = project.load("lines")
    project.write("old.py", "from aioq import App\napp = App()\n")
    old = await project.ready_worker("old:app")
    unknown = await lines.add.send(40, 2)
    base = f"aioq:{{{project.name}:default}}"
    with redis_server.client() as client:
        newer = msgspec.msgpack.encode((99, {"who": "knows"}))
        put_record(client, f"{base}:job:newer", newer)
        client.xadd(f"{base}:normal", {"job": "newer"})

    assert "this worker does not know the task 'lines.add'" in (await old.saw(r"lines\.add\[.*put off"))[0]
    assert "format 99" in (await old.saw(r"\?\[newer\] put off"))[0]
    newer_handle = lines.app.handle("newer")
    parked = await state_is(unknown, "scheduled")
    assert (parked.attempts, parked.crashes, parked.interruptions) == (0, 0, 0)
    await state_is(newer_handle, "scheduled")
    assert await old.stop() == 0

    new = await project.ready_worker("lines:app")
    assert await unknown.result(timeout=20) == 42
    assert (await unknown.info()).attempts == 1
    await new.saw(r"\?\[newer\] put off")


async def test_a_task_that_no_worker_knows_is_dead_after_unknown_task_ttl(project: Project) -> None:
    project.write(
        "old.py", "from aioq import App\napp = App(unknown_task_ttl=0.5)\n@app.task\nasync def other(): ..."
    )
    await project.ready_worker("old:app")
    async with App(project.name, url=project.settings["AIOQ_URL"]) as app:
        handle = await app.send("shop.removed", 1)

        with pytest.raises(
            JobFailed, match=r"no worker knew the task 'shop\.removed' for 0\.5 s .* knows: old\.other"
        ):
            await handle.result(timeout=20)
        info = await handle.info()
    assert (info.state, info.task) == ("failed", "shop.removed")


def test_the_public_errors_have_one_base() -> None:
    public = [getattr(aioq, name) for name in aioq.__all__]
    errors = [value for value in public if isinstance(value, type) and issubclass(value, Exception)]
    assert {error for error in errors if not issubclass(error, aioq.AioqError)} == {
        aioq.Cancel,
        aioq.Fail,
        aioq.Retry,
        aioq.Snooze,
    }


async def test_waiting_for_a_job_that_does_not_exist_is_an_error(redis_server: Database, app_name: str) -> None:
    async with App(app_name, url=redis_server.url) as app:
        handle = app.handle("never-sent")
        for question in (handle.result, handle.info, handle.status, handle.cancel):
            with pytest.raises(aioq.JobNotFoundError, match="there is no job 'never-sent'"):
                async with asyncio.timeout(20):
                    await question()
