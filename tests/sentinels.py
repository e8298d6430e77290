"""Start a real primary with replicas and the sentinels that watch it, break the primary, wait for the next one.

All is there after a third of a second, with Valkey one second later, for it fills the replicas only then. By
themselves, sentinels find each other with the messages that they send through the primary every two seconds; here
each gets the messages of the others at once.

Nothing here is asynchronous: a method blocks the caller.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import redis

from tests.databases import empty
from tests.failovers import AT_ONCE
from tests.servers import Login, Server, Tls

MASTER = "mymaster"  # the name that the sentinels know the primary by
WITHIN = 20.0  # seconds; a switch takes 3 s where nothing else runs
PAUSE = 0.05  # seconds between two looks, each of which takes some ten connections
# Milliseconds. With 500 a busy machine was seen to lose the primary that had just been promoted.
DOWN_AFTER = 1000
SHARED_DOWN_AFTER = 60_000  # no test breaks a shared primary, but it may be slow for some seconds
FAILOVER_TIMEOUT = 2000  # for the same primary the next failover begins after twice that time


class Sentinels:
    """A primary, its replicas and their sentinels. Make it with `Sentinels.start`; it is a context manager.

    Attributes:
        servers: the primary and the replicas; which is which changes.
        sentinels: each may be killed and restarted like any other server.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.servers: list[Server] = []
        self.sentinels: list[Server] = []
        self._directory = directory
        self._stopped: set[Server] = set()

    @classmethod
    def start(
        cls,
        name: str,
        directory: Path,
        *,
        replicas: int = 2,
        sentinels: int = 3,
        quorum: int = 2,
        login: Login | None = None,
        sentinel_login: Login | None = None,
        tls: Tls | None = None,
        appendonly: bool = False,
        down_after: int = DOWN_AFTER,
        failover_timeout: int = FAILOVER_TIMEOUT,
        extra_args: Sequence[str | Path] = (),
    ) -> Self:
        """Start them and return once each sentinel knows the primary, its replicas and the other sentinels.

        Args:
            name: one of `tests.servers.SERVERS`.
            directory: each server gets its own one in it.
            replicas: how many the primary has.
            sentinels: how many watch it.
            quorum: how many must find that the primary is gone.
            login: what clients, replicas and sentinels must present to the servers.
            sentinel_login: what clients and other sentinels must present to a sentinel.
            tls: speak TLS, all of them; only a flavour with `tls` can.
            appendonly: keep the data of each server, so that `restart` finds it again.
            down_after: milliseconds without an answer until a server counts as gone.
            failover_timeout: milliseconds that a failover may take.
            extra_args: more command line options of the primary and the replicas.
        """
        started = cls(name, directory)
        try:
            args = [*AT_ONCE, *_login_args(login), *_tls_args(tls), *extra_args]
            started._start_servers(1 + replicas, login=login, tls=tls, appendonly=appendonly, extra_args=args)
            watch = [
                f"sentinel monitor {MASTER} 127.0.0.1 {started.servers[0].port} {quorum}",
                f"sentinel down-after-milliseconds {MASTER} {down_after}",
                f"sentinel failover-timeout {MASTER} {failover_timeout}",
                *_login_lines(login, sentinel_login),
            ]
            started._start_sentinels(sentinels, watch, sentinel_login, tls)
        except BaseException:
            started.end()
            raise
        return started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def url(self) -> str:
        """What an app connects to, login and all, for database 0."""
        server = urlsplit(self.servers[0].url)
        login, at, _ = server.netloc.rpartition("@")
        addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        options = [server.query] if server.query else []
        if own := self.sentinels[0].login:
            user = {"sentinel_username": own.user} if own.user else {}
            options.append(urlencode({**user, "sentinel_password": own.password}, quote_via=quote))
        query = f"?{'&'.join(options)}" if options else ""
        return f"{server.scheme}+sentinel://{login}{at}{addresses}/{MASTER}/0{query}"

    @property
    def primary(self) -> Server:
        """The primary that the sentinels give, whether it answers or not."""
        return self._primary_of(self._answering(self.sentinels)[0])

    @property
    def replicas(self) -> list[Server]:
        """The other servers, whether they answer or not."""
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def failover(self) -> Server:
        """Let a sentinel put a replica in the primary's place, wait until it is there, and give it."""
        old = self.primary
        _ask(self._answering(self.sentinels)[0], "SENTINEL", "FAILOVER", MASTER)
        return self.wait_for_switch(old)

    def kill_primary(self) -> Server:
        """End the primary with SIGKILL, and give it; `restart` brings it back."""
        primary = self.primary
        primary.kill()
        return primary

    def stop_primary(self) -> Server:
        """Stop the primary with SIGSTOP, and give it: its connections stay open, and nothing is answered."""
        primary = self.primary
        os.kill(primary.pid, signal.SIGSTOP)
        self._stopped.add(primary)
        return primary

    def resume(self, server: Server) -> None:
        """Let a stopped server go on; returns at once, before it hears that it is no primary any more."""
        os.kill(server.pid, signal.SIGCONT)
        self._stopped.discard(server)

    def restart(self, server: Server) -> None:
        """Start a server again, as a replica of the primary that there is.

        Without REPLICAOF it would be a second primary for ten seconds, until the sentinels are sure of that.
        """
        server.restart()
        self._stopped.discard(server)
        if (primary := self.primary) is not server:
            _ask(server, "REPLICAOF", "127.0.0.1", primary.port)
            self._wait(lambda: _follows(server, primary))

    def wait_for_switch(self, old: Server) -> Server:
        """Wait until all sentinels that answer give another primary than `old`, and it is one; give it.

        The replicas may not follow it yet, and SENTINEL MASTERS may tell of the old one for a moment longer.
        """

        def switched() -> bool:
            primaries = {self._primary_of(sentinel) for sentinel in self._answering(self.sentinels)}
            return len(primaries) == 1 and old not in primaries and _role(primaries.pop())["role"] == "master"

        self._wait(switched)
        return self.primary

    def wait_until_agreed(self) -> None:
        """Wait until all sentinels that answer know all others and find nothing wrong, and all replicas follow."""
        self._wait(lambda: self.agreed)

    @property
    def agreed(self) -> bool:
        """Whether each sentinel knows all that answer and finds nothing wrong, and all replicas follow."""
        sentinels = self._answering(self.sentinels)
        primary = self.primary
        replicas = [server for server in self._answering(self.servers) if server is not primary]
        return all(self._is_content(sentinel, primary, replicas) for sentinel in sentinels) and all(
            _follows(replica, primary) for replica in replicas
        )

    def end(self) -> None:
        """End all servers and sentinels, the sentinels first."""
        for server in (*self.sentinels, *self.servers):
            # On SIGTERM a primary waits for its replicas.
            server.kill()
            server.stop()

    def _start_servers(self, number: int, **options: Any) -> None:
        for each in range(number):
            self.servers.append(Server.start(self.name, self._directory / f"server-{each}", tcp=True, **options))
        primary, *replicas = self.servers
        for replica in replicas:
            _ask(replica, "REPLICAOF", "127.0.0.1", primary.port)
        self._wait(lambda: all(_follows(replica, primary) for replica in replicas))

    def _start_sentinels(self, number: int, lines: Sequence[str], login: Login | None, tls: Tls | None) -> None:
        options = {"login": login, "tls": tls, "extra_args": [*_tls_args(tls), "--sentinel"]}
        for each in range(number):
            directory = self._directory / f"sentinel-{each}"
            directory.mkdir(parents=True)
            config = directory / "sentinel.conf"
            config.write_text("\n".join([*lines, ""]))
            self.sentinels.append(Server.start(self.name, directory, tcp=True, config=config, **options))
        self._introduce()
        self._wait(lambda: self.agreed)

    def _introduce(self) -> None:
        """Give each sentinel what the others would tell it: address, id, epoch, and what primary they know."""
        primary = f"{MASTER},127.0.0.1,{self.servers[0].port},0"
        for sentinel in self.sentinels:
            hello = f"127.0.0.1,{sentinel.port},{_ask(sentinel, 'SENTINEL', 'MYID')},0,{primary}"
            for other in self.sentinels:
                if other is not sentinel:
                    _ask(other, "PUBLISH", "__sentinel__:hello", hello)

    def _answering(self, servers: list[Server]) -> list[Server]:
        return [server for server in servers if server.alive and server not in self._stopped]

    def _primary_of(self, sentinel: Server) -> Server:
        _, port = _ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return next(server for server in self.servers if server.port == int(port))

    def _is_content(self, sentinel: Server, primary: Server, replicas: list[Server]) -> bool:
        """Whether a sentinel knows these and all sentinels that answer, and finds nothing wrong with them."""
        others = [each for each in self._answering(self.sentinels) if each is not sentinel]
        return (
            self._primary_of(sentinel) is primary
            and _ask(sentinel, "SENTINEL", "MASTER", MASTER)["flags"] == "master"
            and _ports(sentinel, "REPLICAS") >= {replica.port for replica in replicas}
            and _ports(sentinel, "SENTINELS") >= {other.port for other in others}
        )

    def _known(self) -> Iterator[str]:
        """Of each sentinel what it knows of all others, and of each server what it is."""
        for sentinel in self._answering(self.sentinels):
            facts = [_ask(sentinel, "SENTINEL", "MASTER", MASTER)]
            for what in ("REPLICAS", "SENTINELS"):
                facts += _ask(sentinel, "SENTINEL", what, MASTER)
            yield f"sentinel {sentinel.port}: {', '.join(map(_short, facts))}"
        for server in self._answering(self.servers):
            facts = _role(server)
            link = f" of {facts['master_port']}, {facts['master_link_status']}" if facts["role"] == "slave" else ""
            yield f"server {server.port}: {facts['role']}{link}"

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; there is a signal for some of it (+switch-master), and not for all."""
        deadline = time.monotonic() + WITHIN
        while not _holds(condition):
            if time.monotonic() > deadline:
                raise TimeoutError("\n".join([f"not within {WITHIN:g} s; what is known:", *self._known()]))
            time.sleep(PAUSE)


def _holds(condition: Callable[[], bool]) -> bool:
    """Whether it holds; False where a server ends the connection, as when a sentinel makes a replica of it."""
    try:
        return condition()
    except redis.ConnectionError:
        return False


class SharedSentinels:
    """What tests share: of each flavour a primary, two replicas and a sentinel, from the first use to the end.

    One sentinel is enough where nothing is broken: the App asks only one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._all: dict[str, Sentinels] = {}

    @contextlib.contextmanager
    def lent(self, name: str, app_name: str) -> Iterator[Sentinels]:
        """Those of a flavour, empty; AssertionError where keys of others are left in them afterwards."""
        sentinels = self._all.get(name) or self._start(name)
        yield sentinels
        foreign = empty(sentinels.servers[0], app_name)
        assert not foreign, f"left keys behind in {name} that are not of app {app_name!r}: {', '.join(foreign)}"

    def end(self) -> None:
        """End all that were started."""
        for sentinels in self._all.values():
            sentinels.end()

    def _start(self, name: str) -> Sentinels:
        self._all[name] = Sentinels.start(
            name, self._directory / name, sentinels=1, quorum=1, down_after=SHARED_DOWN_AFTER
        )
        return self._all[name]


def _short(facts: Any) -> str:
    return f"{facts['port']} {facts['flags']}"


def _login_args(login: Login | None) -> list[str]:
    if login is None:
        return []
    return ["--masterauth", login.password, *(["--masteruser", login.user] if login.user else [])]


def _login_lines(login: Login | None, sentinel_login: Login | None) -> list[str]:
    """What a sentinel presents to the servers, and to other sentinels."""
    lines: list[str] = []
    if login is not None:
        lines += [f"sentinel auth-user {MASTER} {login.user}"] if login.user else []
        lines += [f"sentinel auth-pass {MASTER} {login.password}"]
    if sentinel_login is not None:
        lines += [f"sentinel sentinel-user {sentinel_login.user}"] if sentinel_login.user else []
        lines += [f"sentinel sentinel-pass {sentinel_login.password}"]
    return lines


def _tls_args(tls: Tls | None) -> list[str]:
    return ["--tls-replication", "yes"] if tls else []


def _ask(server: Server, *command: str | int) -> Any:
    with server.client() as client:
        return client.execute_command(*command)


def _role(server: Server) -> Any:
    with server.client() as client:
        return client.info("replication")


def _follows(replica: Server, primary: Server) -> bool:
    facts = _role(replica)
    return facts.get("master_port") == primary.port and facts["master_link_status"] == "up"


def _ports(sentinel: Server, what: str) -> set[int]:
    """The ports of those replicas or sentinels that a sentinel is connected to and finds nothing wrong with."""
    found = _ask(sentinel, "SENTINEL", what, MASTER)
    # "master_down", what another sentinel has said of the primary, stays after the switch.
    return {int(each["port"]) for each in found if not {*each["flags"].split(",")} & {"s_down", "disconnected"}}
