"""Sync code: the loop of the process, from many threads, after a fork, at the end, and what is refused."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aioq import (
    App,
    ArgumentError,
    ConfigError,
    JobCancelledError,
    JobFailed,
    JobNotFoundError,
    Middleware,
    RunningLoopError,
    current_job,
    gather_sync,
)
from aioq.store.connector import LOOKS_UP_HOSTS
from aioq.testing import SyncSession
from tests.databases import Database
from tests.forkserver import ForkedPopen

app = App("shop", url="redis://nowhere")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
def add_in_thread(x: int, y: int) -> int:
    """A plain function that sends a job and waits for it."""
    return add.send_sync(x, y).result_sync(timeout=10)


@app.task
async def fail() -> None:
    raise LookupError("no")


@app.task
async def hang() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def session() -> Iterator[SyncSession]:
    with app.test() as session:
        yield session


# -- what there is


def test_send_and_wait(session: SyncSession) -> None:
    handle = add.send_sync(1, y=2)
    assert (handle.result_sync(), handle.added) == (3, True)
    assert handle.result_sync(timeout=timedelta(seconds=10)) == 3
    assert (handle.status_sync(), handle.info_sync(result=True).result) == ("succeeded", 3)
    assert add.handle(handle.id).result_sync() == app.handle(handle.id).result_sync() == 3


def test_send_many(session: SyncSession) -> None:
    handles = add.send_many_sync([(1, 2), (3, 4)])
    assert gather_sync(*handles) == gather_sync(handles, timeout=10) == (3, 7)
    assert gather_sync() == gather_sync([]) == ()
    mixed = app.send_many_sync([add.call(5, 6), add_in_thread.call(7, 8)])
    assert gather_sync(mixed) == (11, 15)


def test_by_name_and_with_options(session: SyncSession) -> None:
    assert app.send_sync(add.name, 1, 2).result_sync() == 3
    later = add.options(delay=60, job_id="mine").send_sync(1, 2)
    assert not add.options(job_id="mine").send_sync(1, 2).added
    (other,) = add.options(delay=60).send_many_sync([(3, 4)])
    session.advance(59)
    assert (later.status_sync(), other.status_sync()) == ("scheduled", "scheduled")
    session.advance(timedelta(seconds=1))
    assert gather_sync(later, other) == (3, 7)


def test_drain_moves_the_clock_too(session: SyncSession) -> None:
    before = session.clock.now_ms()
    handle = add.options(delay=3600).send_sync(1, 2)
    session.drain()
    assert handle.result_sync() == 3
    assert session.clock.now_ms() - before >= 3_600_000


def test_cancel(session: SyncSession) -> None:
    handle = hang.send_sync()
    with pytest.raises(TimeoutError, match=r"has no outcome after 0.01 s"):
        handle.result_sync(timeout=0.01)
    assert handle.cancel_sync("enough")
    with pytest.raises(JobCancelledError, match="enough"):
        handle.result_sync()
    assert not handle.cancel_sync()


def test_what_goes_wrong_is_raised_as_in_async_code(session: SyncSession) -> None:
    with pytest.raises(JobFailed) as caught:
        fail.send_sync().result_sync()
    assert str(caught.value.error) == "LookupError: no"
    with pytest.raises(ArgumentError):
        add.send_sync(1)  # pyright: ignore[reportCallIssue] - that is the mistake
    with pytest.raises(ArgumentError):
        add.send_many_sync([1])  # pyright: ignore[reportArgumentType] - likewise
    with pytest.raises(JobNotFoundError):
        app.handle("nope").result_sync()
    with pytest.raises(ConfigError, match="timeout must be"):
        add.send_sync(1, 2).result_sync(timeout="5")  # pyright: ignore[reportArgumentType] - likewise
    with pytest.raises(TypeError, match=r"gather_sync takes job handles"):
        gather_sync(3)  # pyright: ignore[reportArgumentType, reportCallIssue] - likewise


def test_everything_else(session: SyncSession) -> None:
    assert app.run_sync(app.schedules.list()) == []
    handle = add.send_sync(1, 2)
    assert app.run_sync(handle) == 3

    async def both() -> tuple[int, str]:
        return await handle, await handle.status()

    assert app.run_sync(both()) == (3, "succeeded")


@pytest.mark.parametrize("wrong", [add.send, 3, None, "x"], ids=lambda wrong: type(wrong).__name__)
def test_what_cannot_be_awaited_is_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"run_sync takes a coroutine or another awaitable, not "):
        app.run_sync(wrong)


# -- where it may be called


@pytest.mark.anyio
async def test_inside_a_running_loop_it_is_refused_with_what_to_write() -> None:
    handle = app.handle("a")
    for call, instead in (
        (lambda: add.send_sync(1, 2), f"await {add.name}.send(...)"),
        (lambda: add.options(delay=1).send_sync(1, 2), f"await {add.name}.send(...)"),
        (lambda: add.send_many_sync([(1, 2)]), f"await {add.name}.send_many(...)"),
        (lambda: app.send_sync("x"), "await x.send(...)"),
        (lambda: app.send_many_sync([]), "await app.send_many(...)"),
        (handle.result_sync, "await handle.result(...)"),
        (handle.info_sync, "await handle.info(...)"),
        (handle.status_sync, "await handle.status()"),
        (handle.cancel_sync, "await handle.cancel(...)"),
        (lambda: gather_sync(handle), "await gather(...)"),
        (lambda: app.run_sync(app.send("x")), "use await in its place"),
        (app.test().__enter__, "async with app.test()"),
    ):
        with pytest.raises(RunningLoopError) as caught:
            call()
        assert isinstance(caught.value, RuntimeError)
        assert instead in str(caught.value)
    gc.collect()  # and no coroutine was left that nobody has awaited


def test_from_many_threads_at_once(session: SyncSession) -> None:
    def work(number: int) -> int:
        return add.send_sync(number, number).result_sync(timeout=30)

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(work, range(200))) == [2 * number for number in range(200)]
    assert len([each for each in threading.enumerate() if each.name == "aioq-sync"]) == 1


def test_a_task_in_a_thread_sends_and_waits(session: SyncSession) -> None:
    assert add_in_thread.send_sync(1, 2).result_sync(timeout=10) == 3


@pytest.mark.anyio
async def test_so_it_does_where_the_session_is_async() -> None:
    async with app.test():
        assert await (await add_in_thread.send(1, 2)).result(timeout=10) == 3


def test_the_context_of_the_caller_goes_along() -> None:
    """So a middleware finds the job that sends, or a trace."""
    seen: list[str] = []

    class Seeing(Middleware):
        async def send(self, call: Any, forward: Any) -> bool:
            seen.append(current_job().task if call.task == "child" else "")
            return await forward(call)

    family = App("family", url="redis://nowhere", middleware=[Seeing()])

    @family.task(name="child")
    async def child() -> int:
        return 1

    @family.task(name="parent")
    def parent() -> int:
        return child.send_sync().result_sync(timeout=10)

    with family.test():
        assert parent.send_sync().result_sync(timeout=10) == 1
    assert seen == ["", "parent"]


def test_an_interrupt_ends_the_waiting_and_not_the_job(session: SyncSession) -> None:
    handle = hang.send_sync()
    waiting = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    waiting.start()
    with pytest.raises(KeyboardInterrupt):
        handle.result_sync(timeout=30)
    waiting.join()
    assert handle.status_sync() == "running"
    assert add.send_sync(1, 2).result_sync() == 3


def test_an_interrupt_cancels_what_is_run() -> None:
    ended = threading.Event()

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        app.run_sync(work())
    assert ended.wait(10)


# -- on a server: processes that end and fork


def run(script: str, database: Database, name: str, *options: str, new: bool = False) -> str:
    """Run a script to its end; in a new process, or in a forked one, in which aioq is imported already."""
    head = (
        f"from aioq import App, gather_sync\napp = App({name!r}, url={database.url!r})\nadd = app.by_name('add')\n"
    )
    command = [sys.executable, "-W", "error", *options, "-c", head + script]
    start = subprocess.Popen if new else ForkedPopen
    with start(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        printed, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, ""), errors
    return printed


def queued(database: Database, name: str) -> set[str]:
    async def look() -> set[str]:
        async with App(name, url=database.url) as found:
            return {each for each in ids if await found.handle(each).status() == "queued"}

    ids = [f"j{number}" for number in range(100)]
    with database.client() as client:
        ids = [each for each in ids if client.exists(f"aioq:{{{name}:default}}:job:{each}")]
    return asyncio.run(look())


def test_a_script_ends_clean(redis_server: Database, app_name: str) -> None:
    run("add.options(job_id='j1').send_sync(1, 2)", redis_server, app_name, new=True)
    assert queued(redis_server, app_name) == {"j1"}


def test_what_is_on_its_way_arrives_before_the_end(redis_server: Database, app_name: str) -> None:
    script = """
import asyncio
async def send():
    await app.send("warm")
    sends = [asyncio.create_task(add.options(job_id=f"j{n}").send(1, 2)) for n in range(8)]
app.run_sync(send())
"""
    run(script, redis_server, app_name)
    assert queued(redis_server, app_name) == {f"j{number}" for number in range(8)}


def test_a_handler_at_exit_may_still_send(redis_server: Database, app_name: str) -> None:
    script = """
import atexit
atexit.register(lambda: add.options(job_id="j2").send_sync(1, 2))
add.options(job_id="j1").send_sync(1, 2)
"""
    run(script, redis_server, app_name)
    assert queued(redis_server, app_name) == {"j1", "j2"}


@pytest.mark.parametrize("before", ["used before", "not used before"])
def test_a_destructor_at_the_very_end_gets_an_error(redis_server: Database, app_name: str, before: str) -> None:
    """No thread but the main one runs then, and it would wait for ever."""
    script = """
from aioq import ServerUnavailableError
class Last:
    def __del__(self, send=add.send_sync, expected=ServerUnavailableError, show=print):
        try:
            send(1, 2)
        except expected as error:
            show(error)
last = Last()
"""
    first = "add.options(job_id='j1').send_sync(1, 2)\n" if before == "used before" else ""
    printed = run(first + script, redis_server, app_name, new=True)
    assert printed == "the process is ending; Python has called the handlers of atexit already\n"


FORKS = {
    "os.fork": """
import os
child = os.fork()
add.options(job_id="j2" if child else "j3").send_sync(1, 2)
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
    "multiprocessing": """
import multiprocessing
def work(number):
    return add.options(job_id=f"j{number}").send_sync(1, 2).id
pool = multiprocessing.get_context("fork").Pool(2)
assert pool.map(work, [2, 3]) == ["j2", "j3"]
pool.close()  # not ended by a signal, which would break into what they do at their end
pool.join()
""",
}


@pytest.mark.parametrize("way", FORKS)
@pytest.mark.parametrize("before", ["used before", "not used before"])
def test_a_forked_child_has_a_loop_of_its_own(
    redis_server: Database, app_name: str, way: str, before: str
) -> None:
    first = "add.options(job_id='j1').send_sync(1, 2)\n" if before == "used before" else ""
    # Python 3.12 and newer warn of any fork beside a thread.
    run(first + FORKS[way], redis_server, app_name, "-W", "ignore:.*fork:DeprecationWarning")
    assert queued(redis_server, app_name) == {"j2", "j3", *(["j1"] if first else [])}


@pytest.mark.parametrize("module", [LOOKS_UP_HOSTS, "importlib.readers", "aioq.store.redis"])
def test_a_fork_does_not_come_into_an_import_that_another_thread_is_in(
    redis_server: Database, app_name: str, module: str
) -> None:
    """The child would wait for ever for a lock that nobody there holds, or find half a module."""
    script = """
import os, sys, threading, time
begun = threading.Event()
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            begun.set()
            time.sleep(0.2)
sys.modules.pop(MODULE, None)
sys.meta_path.insert(0, Slow())
sender = threading.Thread(target=add.options(job_id="j1").send_sync, args=(1, 2))
sender.start()
assert begun.wait(20)
child = os.fork()
if not child:
    add.options(job_id="j2").send_sync(1, 2)
    os._exit(0)
sender.join()
assert os.waitpid(child, 0)[1] == 0
"""
    script = f"MODULE = {module!r}\n{script}"
    run(script, redis_server, app_name, "-W", "ignore:.*fork:DeprecationWarning", new=True)  # imports it itself
    assert queued(redis_server, app_name) == {"j1", "j2"}


def test_no_fork_comes_into_any_import_of_a_first_send(redis_server: Database, app_name: str) -> None:
    """Python imports some modules by itself, others in each of its versions."""
    script = """
import sys, threading
from aioq.store import connector
unguarded = set()
class Watch:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is not threading.main_thread() and not connector._no_fork._is_owned():
            unguarded.add(name)
sys.meta_path.insert(0, Watch())
def use():
    handle = add.options(job_id="j1").send_sync(1, 2)
    handle.info_sync()
user = threading.Thread(target=use)
user.start()
user.join()
print("aioq.store.redis" in sys.modules, sorted(unguarded))
"""
    assert run(script, redis_server, app_name, new=True).strip() == "True []"


@pytest.mark.parametrize("before", ["used before", "not used before"])
def test_threads_that_outlive_the_main_thread_send(redis_server: Database, app_name: str, before: str) -> None:
    """Also where the server is named, and its name is looked up in a thread of the loop's pool."""
    script = """
import threading
def late():
    threading.main_thread().join()
    add.options(job_id="j2").send_sync(1, 2)
    other.options(job_id="j3").send_sync(1, 2)
threading.Thread(target=late).start()
"""
    named = redis_server.url.replace("127.0.0.1", "localhost")
    other = f"other = App({app_name!r}, url={named!r}).by_name('add')\n"
    first = "add.options(job_id='j1').send_sync(1, 2)\n" if before == "used before" else ""
    run(other + first + script, redis_server, app_name)
    assert queued(redis_server, app_name) == {"j2", "j3", *(["j1"] if first else [])}


@pytest.mark.alone
def test_an_end_without_a_server_takes_no_longer_than_it_must(app_name: str, tmp_path: Path) -> None:
    script = f"""
from aioq import App, SendError, ServerUnavailableError
app = App({app_name!r}, url="unix://{tmp_path}/none", send_timeout=0.2)
try:
    app.send_sync("add")
except (SendError, ServerUnavailableError):
    print("refused")
"""
    command = [sys.executable, "-W", "error", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "refused\n", "")


# -- a forgotten await


@pytest.mark.parametrize(
    ("forget", "named"),
    [
        (lambda: add.send(1, 2), f"{add.name}.send"),
        (lambda: add.options(delay=1).send(1, 2), f"{add.name}.send"),
        (lambda: add.send_many([(1, 2)]), f"{add.name}.send_many"),
        (lambda: app.send("other.task", 1), "other.task.send"),
        (lambda: add_in_thread.send(1, 2), f"{add_in_thread.name}.send"),
    ],
)
def test_a_forgotten_await_is_reported_with_the_task(forget: Any, named: str) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        forget()
        gc.collect()
    assert [str(each.message) for each in found] == [f"coroutine '{named}' was never awaited"]
