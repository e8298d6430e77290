"""What every test can ask for, and what every test is held to.

- `server`: a fresh database of a real server, once for each server that the run is on (contract tests).
- `redis_server`: the same on one server only (behaviour tests).
- `start_server`: a server of the test's own, to be stopped, killed or started with other options.
- `start_tls_server`: the same over TLS, once for each server that can.
- `cluster`: a shared cluster of three primaries, empty, of one server.
- `start_cluster`, `start_tls_cluster`: a cluster of the test's own.
- `start_sentinels`, `start_tls_sentinels`: a primary, replicas and sentinels of the test's own.
- `size(small, full)`: how many, where a test has a small size for every run and a full one for `make scale`.
- `app_name`: a name for the test's app. Keys of any other app that are left behind fail the test.

No test may leave a process or a non-daemon thread behind. A server that cannot run here is named at the top
and at the end of the run, as is TLS where no server is built with it, and what this host has not; a server that
could be installed is an error where all of them must run.
"""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pytest

from aioq.store.redis import scripts
from tests import forkserver, hosts, leaks, side_by_side
from tests.clusters import Cluster, Clusters
from tests.databases import Database, Pool, foreign_keys, new_app_name
from tests.flavours import CHOICE
from tests.sentinels import Sentinels, SharedSentinels
from tests.servers import SERVERS, Server, Tls, available, chosen, missing, with_tls

REQUIRED = "AIOQ_REQUIRE_SERVERS"

# The first of these that runs here serves the tests that need only one: its wheel is there wherever
# aioq[embedded] is installed.
PREFERENCE = ("valkey-9.1", "redis-7.0", "redis-8.2", "redis-6.2")
WAITING = {"behaviour", "faults", "embedded"}  # the directories of tests that wait for what they have started
OVER_TLS = {"start_tls_server", "start_tls_cluster", "start_tls_sentinels"}

_in_ci = os.environ.get("CI") == "true"
_must_run = _in_ci or os.environ.get(REQUIRED) == "1"
# A developer's own settings must not reach the apps under test.
for _name in [name for name in os.environ if name.startswith("AIOQ_")]:
    del os.environ[_name]
if _must_run:
    os.environ.setdefault(CHOICE, "all")
# No test needs the system's certificate authorities, and to read them takes 22 ms for each connection over TLS.
os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull
# To compile all modules of aioq makes a start twice as long, and the tests start hundreds of processes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def _servers_not_run() -> str:
    left_out = [name for name in SERVERS if name not in available()]
    reasons = [why.reason if (why := missing(name)) else f"not chosen; {CHOICE}=all" for name in left_out]
    return ", ".join(f"{name} ({reason})" for name, reason in zip(left_out, reasons, strict=True))


def _not_run() -> list[str]:
    """One line for each kind of thing that this run leaves out."""
    lines = [f"servers not run: {names}"] if (names := _servers_not_run()) else []
    if not with_tls():
        lines.append("tests not run: all over TLS (no server that runs here is built with it)")
    lines += [f"tests not run: all that need {name} (this host has none)" for name in hosts.lacking()]
    return lines


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if not pluginmanager.hasplugin("xdist"):
        side_by_side.add_options(parser)
    parser.addoption(
        "--measure-all", action="store_true", default=False, help="coverage measures all processes, marked or not"
    )
    parser.addoption("--full", action="store_true", default=False, help="the full sizes of tests marked `scale`")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to start where every server must run and one that could be installed is not."""
    gc.disable()  # until all is collected: it stays, and to look through it takes a third of the time
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell without job control ignores Ctrl-C for what it runs in the background, and all that the tests
        # start would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "needs_server(name): what is tested is this one server's; left out without it"
    )
    config.addinivalue_line("markers", "needs_host(name): left out where `tests.hosts` finds none of it")
    config.addinivalue_line("markers", "scale(minutes): has a full size (--full), and what that may take at most")
    config.addinivalue_line("markers", "long(seconds): of a file, which is begun before the others")
    config.addinivalue_line(
        "markers",
        "alone(waits=False): measures times, so it runs when nothing else does, or beside others that wait",
    )
    config.addinivalue_line("markers", "measured: of a file, coverage measures the processes that it starts too")
    config.addinivalue_line("markers", "apart: of a file, the tests of which are handed out one by one")
    lacking = [name for name in chosen() if (why := missing(name)) is not None and why.installable]
    if _must_run and lacking:
        raise pytest.UsageError(f"these must run here (CI or {REQUIRED}); servers not run: {_servers_not_run()}")
    if _in_ci and hosts.to_install():
        raise pytest.UsageError(f"to be installed in CI, by .ci/run: {', '.join(hosts.to_install())}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what no server here can, or not this host: an empty parameter set would be an error, rightly.

    Full sizes get their time. The longest files come first, so that none of them is all that runs at the end.
    """
    left_out = [item for item in items if _lacks_its_server(item) or _lacks_its_host(item)]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    for item in items if config.getoption("full") else ():
        for mark in item.iter_markers("scale"):
            item.add_marker(pytest.mark.timeout(mark.kwargs["minutes"] * 60))
    items.sort(key=_seconds, reverse=True)


def pytest_collection_finish() -> None:
    """Look for garbage from here on, and not among what was collected: 9,000 items take a tenth of a second."""
    gc.freeze()
    gc.enable()


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run them in several processes, where that is wanted."""
    processes = session.config.getoption("processes", 0)
    if not processes or session.config.option.collectonly or session.testsfailed or not session.items:
        return None
    _read_scripts()
    side_by_side.SideBySide(session, processes, _waits).run()
    return True


def _read_scripts() -> None:
    """Put the scripts together once, for all processes: that takes half a second."""
    scripts.library()
    for name in scripts.commands():
        scripts.script(name)


def _seconds(item: pytest.Item) -> float:
    """What the mark `long` says; of those that are alike in that, the order stays random."""
    mark = item.get_closest_marker("long")
    return mark.kwargs["seconds"] if mark else 0


def _waits(item: pytest.Item) -> bool:
    return not WAITING.isdisjoint(item.nodeid.split("/")[:2])


def _lacks_its_server(item: pytest.Item) -> bool:
    if OVER_TLS & {*getattr(item, "fixturenames", ())} and not with_tls():
        return True
    return any(mark.args[0] not in available() for mark in item.iter_markers("needs_server"))


def _lacks_its_host(item: pytest.Item) -> bool:
    return not all(hosts.has(mark.args[0]) for mark in item.iter_markers("needs_host"))


def pytest_report_header() -> list[str]:
    """Name the servers that run, and those that do not."""
    return [f"servers: {', '.join(available()) or 'none'}", *_not_run()]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was not run once more, where it is read."""
    for line in _not_run():
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Every `anyio` test runs on asyncio, the only event loop aioq is for."""
    return ("asyncio", {})


@pytest.fixture(scope="module", autouse=True)
def _processes_are_measured_where_that_is_wanted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have coverage measure the processes that a file starts where it has the mark `measured`.

    A measured worker takes twice the time of a core, and what most of them do is done in other processes too.
    """
    is_wanted = request.config.getoption("measure_all") or request.node.get_closest_marker("measured")
    with nullcontext() if is_wanted else forkserver.unmeasured():
        yield


@pytest.fixture(scope="module", autouse=True)
def _module_leaves_nothing_running() -> Iterator[None]:
    """Fail the last test of a module of which a process stays, whoever started it and however long ago."""
    processes = leaks.processes()
    yield
    _fail_for(leaks.end_new_processes(processes))


@pytest.fixture(autouse=True)
def _leaves_nothing_running() -> Iterator[None]:
    """Fail a test that leaves a process or a non-daemon thread behind.

    Processes are looked for where it has started any: to look through all that there are takes longer than most
    tests do.
    """
    threads = set(threading.enumerate())
    with leaks.starts() as starts:
        yield
    processes = [] if starts.before is None else leaks.end_new_processes(starts.before)
    _fail_for([*processes, *leaks.new_threads(threads)])


def _fail_for(left: list[str]) -> None:
    if left:
        pytest.fail(f"left running: {', '.join(left)}")


@pytest.fixture(scope="session")
def _pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """The shared servers of this process; each process of tests has its own."""
    pool = Pool(tmp_path_factory.mktemp("servers"))
    yield pool
    pool.stop()


@pytest.fixture(scope="session")
def _clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    """The shared clusters of this process."""
    clusters = Clusters(tmp_path_factory.mktemp("clusters"))
    yield clusters
    clusters.end()


def _while_wanted(fixture_name: str, config: pytest.Config) -> Literal["session", "module"]:
    """With three or more servers each file of the contract has tests with sentinels, else only a few have."""
    del fixture_name, config
    return "session" if len(chosen()) > 2 else "module"


@pytest.fixture(scope=_while_wanted)
def _sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedSentinels]:
    """The shared sentinels of this process, with what they watch; idle, they take a hundredth of a processor."""
    sentinels = SharedSentinels(tmp_path_factory.mktemp("sentinels"))
    yield sentinels
    sentinels.end()


@pytest.fixture
def app_name() -> str:
    """A name no other test has, for the app whose keys this test may leave in the server."""
    return new_app_name()


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How many: `size(small, full)`; of a test with the mark `scale`, which `make scale` runs in full."""
    assert request.node.get_closest_marker("scale"), "only tests that are marked `scale` are run in full"
    full = request.config.getoption("full")
    return lambda small, large: large if full else small


@contextmanager
def _checked(pool: Pool, name: str, app_name: str) -> Iterator[Database]:
    database = pool.database(name)
    yield database
    if not database.server.alive:
        pytest.fail(f"the shared {name} is gone; a test that ends its server starts it with `start_server`")
    foreign = foreign_keys(database, app_name)
    if foreign:
        pytest.fail(f"left keys behind in {name} that are not of app {app_name!r}: {', '.join(foreign)}")


# Computed here, so that a server that cannot run is no parameter at all: it is reported, never skipped.
@pytest.fixture(params=available())
def server(request: pytest.FixtureRequest, _pool: Pool, app_name: str) -> Iterator[Database]:
    """An empty database of each server that the run is on."""
    with _checked(_pool, request.param, app_name) as database:
        yield database


@pytest.fixture
def redis_server(_pool: Pool, app_name: str) -> Iterator[Database]:
    """An empty database of one supported server."""
    with _checked(_pool, _preferred(), app_name) as database:
        yield database


def _preferred() -> str:
    names = [name for name in PREFERENCE if name in available()]
    if not names:
        pytest.fail(f"servers not run: {_servers_not_run()}")
    return names[0]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server of the test's own: `start_server(name=None, **options of Server.start)`."""
    started: list[Server] = []

    def start(name: str | None = None, **options: Any) -> Server:
        name = name or _preferred()
        directory = options.pop("directory", tmp_path / f"server-{len(started)}")
        started.append(Server.start(name, directory, **options))
        return started[-1]

    yield start
    for each in started:
        each.kill()  # with SIGTERM it would end at its next tick, up to a tenth of a second later
        each.stop()


@pytest.fixture(params=with_tls() or ["none"])
def start_tls_server(
    request: pytest.FixtureRequest, start_server: Callable[..., Server], tmp_path: Path
) -> Callable[..., Server]:
    """Start a server that speaks TLS, with a certificate of its own authority: `start_tls_server(**options)`."""
    return partial(start_server, request.param, tls=Tls.make(tmp_path))


@pytest.fixture
def cluster(_clusters: Clusters, app_name: str) -> Iterator[Cluster]:
    """An empty cluster of three primaries that other tests use before and after this one."""
    with _clusters.lent(_preferred(), app_name) as cluster:
        yield cluster


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Start a cluster of the test's own: `start_cluster(name=None, **options of Cluster.start)`."""
    with ExitStack() as started:
        numbers = count()

        def start(name: str | None = None, **options: Any) -> Cluster:
            directory = tmp_path / f"cluster-{next(numbers)}"
            return started.enter_context(Cluster.start(name or _preferred(), directory, **options))

        yield start


@pytest.fixture(params=with_tls() or ["none"])
def start_tls_cluster(
    request: pytest.FixtureRequest, start_cluster: Callable[..., Cluster], tmp_path: Path
) -> Callable[..., Cluster]:
    """Start a cluster that speaks TLS, also between its nodes: `start_tls_cluster(**options)`."""
    return partial(start_cluster, request.param, tls=Tls.make(tmp_path))


@pytest.fixture
def start_sentinels(tmp_path: Path) -> Iterator[Callable[..., Sentinels]]:
    """Start sentinels of the test's own, with what they watch: `start_sentinels(name=None, **options)`."""
    with ExitStack() as started:
        numbers = count()

        def start(name: str | None = None, **options: Any) -> Sentinels:
            directory = tmp_path / f"sentinels-{next(numbers)}"
            return started.enter_context(Sentinels.start(name or _preferred(), directory, **options))

        yield start


@pytest.fixture(params=with_tls() or ["none"])
def start_tls_sentinels(
    request: pytest.FixtureRequest, start_sentinels: Callable[..., Sentinels], tmp_path: Path
) -> Callable[..., Sentinels]:
    """Start sentinels that speak TLS, as all that they watch: `start_tls_sentinels(**options)`."""
    return partial(start_sentinels, request.param, tls=Tls.make(tmp_path))
