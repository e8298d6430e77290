"""A pytest fixture around `app.test()`, on the event loop on which the test will run.

An async fixture is set up by the first plugin that takes it. In pytest-asyncio's strict mode no plugin does. In
its auto mode, if a test has anyio's mark too, it is the plugin that does not run the test. So this is a plain
fixture, which finds the plugin that runs the test and uses its event loop.
"""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from importlib import import_module
from typing import Any, Protocol

from aioq.errors import ConfigError
from aioq.testing.session import MemorySession, SyncSession

RunCoroutine = Callable[[Coroutine[Any, Any, Any]], Any]
"""A function that runs a coroutine on the test's event loop, called from outside of that loop."""


class InMemory(Protocol):
    """An object that can run in memory: an `aioq.App`."""

    def test(self) -> MemorySession:
        """A new session in memory; it still has to be entered."""
        ...


def app_fixture(app: InMemory) -> Any:
    """A fixture that runs `app` in memory during a test, and gives the test its session.

    It works with pytest-asyncio, in either mode, with anyio's plugin (on asyncio), and in sync tests.

    Args:
        app: the App; in the test, its tasks are sent and awaited as always.

    Raises:
        ModuleNotFoundError: pytest is not installed.
        ConfigError: at the set-up of an async test that no known plugin runs.
    """
    import pytest  # optional extra  # noqa: PLC0415

    @pytest.fixture
    def session(request: Any) -> Iterator[MemorySession | SyncSession]:
        if not inspect.iscoroutinefunction(getattr(request.node, "function", None)):
            with app.test() as running:
                yield running
        elif _is_of_pytest_asyncio(request):
            yield from _by_pytest_asyncio(_runner_of_pytest_asyncio(request), app)
        elif "anyio_backend" in request.fixturenames:
            yield from _by_anyio(request, app)
        else:
            raise ConfigError(
                f"{request.node.nodeid} uses an App in memory and is run by neither pytest-asyncio nor anyio: "
                "mark it (pytest.mark.asyncio, or pytest.mark.anyio), or enter app.test() yourself"
            )

    return session


async def _running(app: InMemory) -> AsyncGenerator[MemorySession]:
    async with app.test() as session:
        yield session


# -- anyio ------------------------------------------------------------------------------------------------------


def _by_anyio(request: Any, app: InMemory) -> Iterator[MemorySession]:
    from anyio.pytest_plugin import extract_backend_and_options, get_runner  # optional extra  # noqa: PLC0415

    backend, options = extract_backend_and_options(request.getfixturevalue("anyio_backend"))
    if backend != "asyncio":
        raise ConfigError(
            f"aioq runs on asyncio, and anyio runs {request.node.nodeid} on {backend}: have a fixture "
            "anyio_backend that returns 'asyncio'"
        )
    with get_runner(backend, options) as runner:
        yield from runner.run_asyncgen_fixture(_running, {"app": app})


# -- pytest-asyncio ---------------------------------------------------------------------------------------------


def _is_of_pytest_asyncio(request: Any) -> bool:
    if not request.config.pluginmanager.has_plugin("asyncio"):
        return False
    plugin: Any = import_module("pytest_asyncio")  # optional extra
    return plugin.is_async_test(request.node)


def _runner_of_pytest_asyncio(request: Any) -> RunCoroutine:
    """The function that runs the test's coroutines; pytest-asyncio has it in a fixture without a public name."""
    import pytest  # optional extra  # noqa: PLC0415

    scope = _loop_scope(request)
    for name in (f"_{scope}_scoped_runner", f"_{scope}_event_loop", "event_loop"):  # since 1.1, in 1.0, before 1.0
        with contextlib.suppress(pytest.FixtureLookupError):
            found = request.getfixturevalue(name)
            return found.run if hasattr(found, "run") else found.run_until_complete
    raise ConfigError(
        "this version of pytest-asyncio keeps its event loop where aioq.testing does not find it; write the "
        "fixture yourself: an async one, by pytest_asyncio.fixture, around `async with app.test()`"
    )


def _loop_scope(request: Any) -> str:
    """The scope of the test's event loop, from its mark or the configuration."""
    marker = request.node.get_closest_marker("asyncio")
    given: dict[str, Any] = marker.kwargs if marker is not None else {}
    default = ""
    with contextlib.suppress(ValueError):  # a version without this setting
        default = request.config.getini("asyncio_default_test_loop_scope")
    return given.get("loop_scope") or given.get("scope") or default or "function"


def _by_pytest_asyncio(run: RunCoroutine, app: InMemory) -> Iterator[MemorySession]:
    """Hold a session while the generator runs; in one asyncio task, as cancel scopes in a lifespan need it."""
    held = _HeldSession(app)
    session = run(held.begin())
    try:
        yield session
    finally:
        run(held.end())


class _HeldSession:
    """A session that the same task enters and leaves."""

    def __init__(self, app: InMemory) -> None:
        self._app = app

    async def begin(self) -> MemorySession:
        """Enter the session."""
        self._entered: asyncio.Future[MemorySession] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._task = asyncio.ensure_future(self._hold())
        await asyncio.wait([self._entered, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not self._entered.done():
            self._task.result()  # raises the reason why it could not be entered
        return self._entered.result()

    async def end(self) -> None:
        """Leave the session."""
        self._over.set()
        await self._task

    async def _hold(self) -> None:
        async with self._app.test() as session:
            self._entered.set_result(session)
            await self._over.wait()
