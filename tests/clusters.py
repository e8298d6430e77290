"""Start real clusters of Redis or Valkey, move their slots, break their nodes and promote their replicas.

A cluster of three nodes is there after half a second. Two rules of the servers would make that three seconds:

- A primary says `cluster_state:fail` for the first two seconds of its process (CLUSTER_WRITABLE_DELAY); a replica
  does not. So each node starts from a file that calls it the replica of a primary which does not exist and which
  owns the node's slots; CLUSTER FAILOVER TAKEOVER gives these to the node. A primary that is restarted must wait.
- Nodes tell each other their slots with the next PING, half a node timeout later. A second CLUSTER MEET tells them
  at once.

Nothing here is asynchronous: a method blocks the caller, most of them until every node that answers agrees.
"""

import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import redis
from redis.crc import key_slot

from tests.databases import empty
from tests.failovers import AT_ONCE
from tests.networks import Network, Place
from tests.servers import Login, Server, Tls

SLOTS = 16384
BUS = 10_000  # the port on which nodes talk to each other is so much higher
# Both below the ports that Linux (32768) and macOS (49152) give to outgoing connections: a killed node finds its
# two ports free when it is restarted.
PORTS = range(12_000, 22_000)
WITHIN = 20.0  # seconds; what is waited for here takes 3 s at most where nothing else runs
MANUAL_WITHIN = 6.0  # seconds; the servers give up a CLUSTER FAILOVER after 5
BATCH = 100  # keys in one MIGRATE
TRIES = 3  # a start that a busy machine has upset is made again
TAKE_OVER_WITHIN = 3.0  # seconds; it takes a tenth of one
NODE_TIMEOUT = 1000  # milliseconds without an answer until a node counts as failing
SHARED_NODE_TIMEOUT = (
    15_000  # the servers' default: no test breaks a shared node, but all may be slow for a second
)

Seen = TypeVar("Seen")
Manner = Literal["", "FORCE", "TAKEOVER"]


@dataclass(slots=True, eq=False)
class Node:
    """One server of a cluster.

    Attributes:
        id: the node's name in the cluster, 40 hexadecimal digits.
        stopped: between `Cluster.stop` and `Cluster.resume`, and while it is cut off from the other nodes.
        place: where a network has it.
        is_shared: no test breaks it, so what it is asked goes over a connection that stays open.
    """

    server: Server
    id: str
    stopped: bool = False
    place: Place | None = None
    is_shared: bool = False

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def announced(self) -> tuple[int, int]:
        """The ports where clients and other nodes reach it."""
        return (self.port, self.port + BUS) if self.place is None else (self.place.port, self.place.bus)

    @property
    def answers(self) -> bool:
        """Whether it runs and is not stopped."""
        return self.server.alive and not self.stopped

    def client(self) -> redis.Redis:
        """A blocking client of this node alone, to which MOVED and ASK are errors."""
        return self.server.client()

    def ask(self, *command: str | int) -> Any:
        """The answer to one command."""
        return self.look(lambda client: client.execute_command(*command))

    def look(self, at: Callable[[redis.Redis], Seen]) -> Seen:
        """What is seen with a client of this node."""
        if not self.is_shared:
            with self.client() as client:
                return at(client)
        try:
            return at(self.server.kept_client)
        except redis.ConnectionError:  # the test has ended all connections
            return at(self.server.kept_client)


@dataclass(frozen=True, slots=True)
class _View:
    """What one node knows: its state, and of each node by its id what CLUSTER NODES says."""

    state: str
    assigned: int
    linked: bool  # with its primary, if it has one
    nodes: dict[str, Any]

    @classmethod
    def of(cls, client: redis.Redis) -> Self:
        info: Any = client.execute_command("CLUSTER INFO")
        facts: Any = client.execute_command("CLUSTER NODES")
        nodes = {fact["node_id"]: fact for fact in facts.values()}
        view = cls(info["cluster_state"], int(info["cluster_slots_assigned"]), False, nodes)
        if view.primary is None:
            return view
        replication: Any = client.info("replication")
        return replace(view, linked=replication.get("master_link_status") == "up")

    def __str__(self) -> str:
        nodes = [f"{n[:4]} {f['flags']} {f['master_id'][:4]} {f['slots']}" for n, f in sorted(self.nodes.items())]
        return f"{self.state}, {self.assigned} slots, linked {self.linked}: {'; '.join(nodes)}"

    @property
    def layout(self) -> dict[str, tuple[str, list[list[str]]]]:
        """Of each node, whose replica it is and which slots it owns."""
        return {node: (fact["master_id"], sorted(fact["slots"])) for node, fact in self.nodes.items()}

    @property
    def whole(self) -> bool:
        """Whether this node takes commands, and all slots have an owner."""
        return self.state == "ok" and self.assigned == SLOTS

    @property
    def primary(self) -> str | None:
        """The id of its primary, or None where it is one."""
        found = next(fact["master_id"] for fact in self.nodes.values() if "myself" in fact["flags"])
        return None if found == "-" else found

    def owner_of(self, slot: int) -> str:
        """The id of the node that owns a slot."""
        return next(node for node, fact in self.nodes.items() if _has(fact["slots"], slot))

    def sees(self, node: str) -> bool:
        """Whether it is connected to a node and finds nothing wrong with it."""
        fact = self.nodes.get(node)
        return fact is not None and fact["connected"] and not {*fact["flags"].split(",")} & {"fail", "fail?"}


def _has(ranges: list[list[str]], slot: int) -> bool:
    return any(int(each[0]) <= slot <= int(each[-1]) for each in ranges)


class Migration:
    """A slot on its way from its owner to another node. Made by `Cluster.move_slot`.

    Attributes:
        source: the owner until `finish`; it answers ASK for keys that it has not.
        target: the owner afterwards; it takes commands for the slot after ASKING.
    """

    def __init__(self, cluster: "Cluster", slot: int, source: Node, target: Node) -> None:
        self._cluster, self._slot = cluster, slot
        self.source, self.target = source, target
        target.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, count: int | None = None) -> int:
        """Move so many keys, or all that are left, and say how many that were."""
        moved = 0
        while count is None or moved < count:
            keys = self.source.ask(
                "CLUSTER GETKEYSINSLOT", self._slot, min(BATCH, (count or moved + BATCH) - moved)
            )
            if not keys:
                break
            self.move(keys)
            moved += len(keys)
        return moved

    def move(self, keys: Iterable[str]) -> None:
        """Move these keys in one MIGRATE; those that do not exist are left out."""
        login = self.target.server.login
        auth = ("AUTH2", login.user or "default", login.password) if login else ()
        address = ("127.0.0.1", self.target.port, "", 0, int(WITHIN * 1000))
        self.source.ask("MIGRATE", *address, *auth, "KEYS", *keys)

    def finish(self) -> None:
        """Move what is left, and let everybody know the new owner."""
        self.move_keys()
        others = [node for node in self._cluster.primaries if node not in {self.source, self.target}]
        for node in (self.target, self.source, *others):
            try:
                node.ask("CLUSTER SETSLOT", self._slot, "NODE", self.target.id)
            except redis.ResponseError:
                # The source has heard of it, and where it was its last slot, has become a replica.
                if self._cluster.node_of(self._slot, seen_by=node) is not self.target:
                    raise
        self._cluster.wait_until_agreed()


class Cluster:
    """Some servers that are one cluster. Make it with `Cluster.start`; it is a context manager that ends it.

    Attributes:
        nodes: all that were not forgotten, the first primaries first.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        options: dict[str, Any],
        *,
        full_coverage: bool = False,
        network: Network | None = None,
    ) -> None:
        self.name = name
        self._network = network
        self.nodes: list[Node] = []
        self._directory, self._options, self._full_coverage = directory, options, full_coverage
        self._started = 0
        self._slots_of_lost: dict[str, int] = {}  # one slot of each primary that was killed or stopped

    @classmethod
    def start(
        cls,
        name: str,
        directory: Path,
        *,
        primaries: int = 3,
        replicas: int = 0,
        tls: Tls | None = None,
        login: Login | None = None,
        appendonly: bool = False,
        node_timeout: int = NODE_TIMEOUT,
        full_coverage: bool = False,
        network: Network | None = None,
        extra_args: Sequence[str | Path] = (),
    ) -> Self:
        """Start a cluster and return once every node knows all others and takes commands.

        Args:
            name: one of `tests.servers.SERVERS`.
            directory: each node gets its own one in it.
            primaries: how many share the slots evenly.
            replicas: how many each primary has.
            tls: speak TLS with clients and with each other; only a flavour with `tls` can.
            login: what clients, and replicas of their primary, must present.
            appendonly: keep the data of each node, so that `restart` finds it again.
            node_timeout: milliseconds without an answer until a node counts as failing.
            full_coverage: no node takes commands while a slot has no owner that is there.
            network: what is between the nodes, and between them and their clients; only for servers from 7.0 on.
            extra_args: more command line options of each server.
        """
        args = [*AT_ONCE, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
        args += ["--cluster-announce-ip", "127.0.0.1"]
        args += ["--cluster-node-timeout", str(node_timeout)]
        # Set when all slots have an owner: with it, no node of a new cluster would ever take commands.
        args += ["--cluster-require-full-coverage", "no"]
        args += ["--tls-cluster", "yes", "--tls-replication", "yes"] if tls else []
        args += ["--masterauth", login.password] if login else []
        args += ["--masteruser", login.user] if login and login.user else []
        options = {"tls": tls, "login": login, "appendonly": appendonly, "extra_args": [*args, *extra_args]}
        for attempt in range(1, TRIES + 1):
            cluster = cls(
                name, directory / f"try-{attempt}", options, full_coverage=full_coverage, network=network
            )
            try:
                cluster._build(primaries, replicas)
            except (
                TimeoutError
            ):  # on a busy machine the absent primaries were found out before the nodes took over
                cluster.end()
                if attempt == TRIES:
                    raise
            except BaseException:
                cluster.end()
                raise
            else:
                return cluster
        raise AssertionError("there was no try")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def url(self) -> str:
        """What an app connects to, login and all."""
        first = urlsplit(self.nodes[0].server.url)
        login, at, _ = first.netloc.rpartition("@")
        addresses = ",".join(f"127.0.0.1:{node.announced[0]}" for node in self.nodes)
        query = f"?{first.query}" if first.query else ""
        return f"{first.scheme}+cluster://{login}{at}{addresses}{query}"

    @property
    def primaries(self) -> list[Node]:
        """The nodes that answer and are primaries, with slots or without."""
        view = self._view()
        return [node for node in self._answering() if view.nodes[node.id]["master_id"] == "-"]

    def replicas_of(self, primary: Node) -> list[Node]:
        """The replicas of a primary, whether they answer or not."""
        view = self._view()
        return [node for node in self.nodes if view.nodes[node.id]["master_id"] == primary.id]

    def node_of(self, slot: int, *, seen_by: Node | None = None) -> Node:
        """The node that owns a slot."""
        return self._node(self._view(seen_by).owner_of(slot))

    def slots_of(self, node: Node) -> list[range]:
        """The slots that a node owns."""
        return [range(int(each[0]), int(each[-1]) + 1) for each in self._view().nodes[node.id]["slots"]]

    @staticmethod
    def slot_of(key: str) -> int:
        """The slot of a key; of what stands in its first braces, where it has any."""
        return key_slot(key.encode())

    @contextlib.contextmanager
    def moving_slot(self, slot: int, target: Node) -> Generator[Migration]:
        """A slot that is between its owner and another node; afterwards it is moved."""
        migration = self.move_slot(slot, target)
        try:
            yield migration
        finally:
            migration.finish()

    def move_slot(self, slot: int, target: Node) -> Migration:
        """Begin to move a slot to another node: no key is moved yet, and no owner changed before `finish`."""
        return Migration(self, slot, self.node_of(slot), target)

    def kill(self, node: Node) -> None:
        """End a node with SIGKILL; `restart` brings it back."""
        self._note_slot_of(node)
        node.server.kill()
        node.stopped = False

    def stop(self, node: Node) -> None:
        """Stop a node with SIGSTOP: its connections stay open, and nothing is answered."""
        self._note_slot_of(node)
        os.kill(node.server.pid, signal.SIGSTOP)
        node.stopped = True

    def resume(self, node: Node) -> None:
        """Let a stopped node go on; returns at once, before it knows what it has missed."""
        os.kill(node.server.pid, signal.SIGCONT)
        node.stopped = False

    def cut_off(self, node: Node) -> None:
        """Cut a node off from the other nodes, and not from its clients; `join_again` ends that."""
        assert self._network is not None
        assert node.place is not None
        self._note_slot_of(node)
        self._network.cut_off(node.place, peers=True)
        node.stopped = True

    def join_again(self, node: Node) -> None:
        """End the separation of a node; returns at once, before it knows what it has missed."""
        assert self._network is not None
        self._network.heal()
        node.stopped = False

    def restart(self, node: Node) -> None:
        """Start a node again, after a SIGTERM if it still runs; its data is there with `appendonly` only."""
        node.server.restart()
        node.stopped = False
        self._require_coverage([node])
        self.wait_until_agreed()

    def add_node(self, *, replica_of: Node | None = None) -> Node:
        """One node more: a primary without slots, or a replica."""
        node = self._launch(None)  # an absent primary would be named to the others
        self._meet([node])
        self._wait(self._know_all)
        self._meet([node])
        if replica_of is not None:
            self._replicate(node, replica_of)
        self._require_coverage([node])
        self.wait_until_agreed()
        return node

    def forget(self, node: Node) -> None:
        """Take out a node that owns no slot: end it, and let all others forget it."""
        assert not self.slots_of(node), "move its slots to other nodes first"
        self.nodes.remove(node)
        node.server.kill()
        node.server.stop()
        for other in self._answering():
            other.ask("CLUSTER FORGET", node.id)
        self.wait_until_agreed()

    def promote(self, replica: Node, how: Manner = "") -> None:
        """Make a replica the primary.

        Args:
            replica: it takes the slots of its primary, which becomes its replica.
            how: by agreement with its primary (so no write is lost); "FORCE" without that; "TAKEOVER" without the
                votes of the other primaries too.
        """
        deadline = time.monotonic() + WITHIN
        while self._view(replica).primary is not None:
            # A primary votes once in two node timeouts, so that the second of two quick promotions can be refused.
            replica.ask("CLUSTER FAILOVER", *([how] if how else []))
            with contextlib.suppress(TimeoutError):
                self._wait(lambda views: views[0].primary is None, [replica], MANUAL_WITHIN)
            if time.monotonic() > deadline:
                raise TimeoutError(f"no promotion within {WITHIN:g} s\n{replica.server.log[-2000:]}")
        self.wait_until_agreed()

    def wait_for_promotion(self, lost: Node) -> Node:
        """Wait until a replica has the slots of a primary that was killed or stopped, and give that replica."""
        slot = self._slots_of_lost[lost.id]
        self._wait(lambda views: all(view.owner_of(slot) != lost.id and view.whole for view in views))
        self.wait_until_agreed()
        return self.node_of(slot)

    def flush(self) -> None:
        """Empty every primary."""
        for node in self.primaries:
            node.ask("FLUSHALL")

    def foreign_keys(self, app_name: str) -> list[str]:
        """Empty the cluster, and give the keys, as `0/<key>`, that were in it and are not the app's."""
        return sorted(key for node in self.primaries for key in empty(node.server, app_name))

    def emptied_at_once(self, app_name: str) -> list[str] | None:
        """Do the same where all nodes are there and agree; else None."""
        views = [node.look(_View.of) for node in self.nodes if node.answers]
        if len(views) < len(self.nodes) or not self._agreed(views):
            return None
        primaries = [node for node, view in zip(self.nodes, views, strict=True) if view.primary is None]
        return sorted(key for node in primaries for key in empty(node.server, app_name))

    def wait_until_agreed(self) -> None:
        """Wait until all nodes that answer take commands, are connected, and know the same owners and replicas."""
        self._wait(self._agreed)

    def wait_until_down(self) -> None:
        """Wait until no node that answers takes commands; for a cluster with `full_coverage` that has lost one."""
        self._wait(lambda views: all(view.state == "fail" for view in views))

    def wait_until_whole(self) -> None:
        """Do the same, for all nodes; TimeoutError at once where one does not answer."""
        if not all(node.answers for node in self.nodes):
            raise TimeoutError("a node does not answer")
        self.wait_until_agreed()

    @property
    def agreed(self) -> bool:
        """Whether all nodes are there, take commands, and know the same owners and replicas."""
        return all(node.answers for node in self.nodes) and self._agreed([self._view(node) for node in self.nodes])

    def end(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            # On SIGTERM a primary waits for its replicas.
            node.server.kill()
            node.server.stop()

    def _build(self, primaries: int, replicas: int) -> None:
        bounds = [SLOTS * number // primaries for number in range(primaries + 1)]
        # Each takes over at once: a node timeout later it would have found out that its primary is not there.
        first: list[Node] = []
        for pair in pairwise(bounds):
            first.append(self._launch(range(*pair)))
            self._wait(lambda views: views[0].state == "ok", first[-1:], TAKE_OVER_WITHIN)
            self._take_over(first[-1])
        rest = [self._launch(range(0)) for _ in range(primaries * replicas)]
        for node in rest:
            self._take_over(node)
        self._meet(self.nodes)
        self._wait(self._know_all)
        self._meet(self.nodes)
        self._wait(lambda views: all(view.assigned == SLOTS for view in views))
        for number, node in enumerate(rest):
            self._replicate(node, first[number % primaries])
        self.wait_until_agreed()
        self._require_coverage(self.nodes)

    def _require_coverage(self, nodes: list[Node]) -> None:
        """Let these nodes take no commands while a slot has no owner, where that is wanted."""
        for node in nodes if self._full_coverage else ():
            node.ask("CONFIG SET", "cluster-require-full-coverage", "yes")

    def _launch(self, slots: range | None) -> Node:
        """Start a node that is the replica of a primary which is not there, and which owns these slots.

        With None it is a primary without slots. As such it takes no commands for two seconds.
        """
        number = self._started
        self._started += 1
        directory = self._directory / f"node-{number}"
        directory.mkdir(parents=True)
        own, absent = secrets.token_hex(20), secrets.token_hex(20)
        # Where nodes have shards, both are in one: a node alone in none of its own ends at its first SPUBLISH
        # (seen on Valkey 9.1.2, `nodes != NULL`).
        shard = "" if self.name in {"redis-6.2", "redis-7.0"} else f",,shard-id={secrets.token_hex(20)}"
        owned = f" {slots[0]}-{slots[-1]}" if slots else ""
        # No two nodes begin with the same epoch: that decides who owns a slot where two say they do.
        lines = [f"{own} 127.0.0.1:0@0{shard} myself,slave {absent} 0 0 0 connected"]
        lines += [f"{absent} 127.0.0.1:1@2{shard} master - 0 0 0 disconnected{owned}"]
        if slots is None:
            lines = [f"{own} 127.0.0.1:0@0{shard} myself,master - 0 0 0 connected"]
        (directory / "nodes.conf").write_text("\n".join([*lines, f"vars currentEpoch {number} lastVoteEpoch 0\n"]))
        options = self._options
        place = None if self._network is None else self._network.join()
        if place is not None:
            options = {**options, "extra_args": [*options["extra_args"], *place.args]}
        server = Server.start(self.name, directory, tcp=True, choose_port=free_ports, **options)
        if place is not None:
            place.leads_to = (server.port, server.port + BUS)
        self.nodes.append(Node(server, own, place=place))
        return self.nodes[-1]

    def _take_over(self, node: Node) -> None:
        absent = self._view(node).nodes[node.id]["master_id"]
        node.ask("CLUSTER FAILOVER", "TAKEOVER")
        node.ask("CLUSTER FORGET", absent)

    def _meet(self, nodes: list[Node]) -> None:
        """Introduce these to all that there are."""
        for node in nodes:
            for other in self._answering():
                if other is not node:
                    node.ask("CLUSTER MEET", "127.0.0.1", *other.announced)

    def _replicate(self, node: Node, primary: Node) -> None:
        self._wait(lambda views: views[0].sees(primary.id), [node])
        node.ask("CLUSTER REPLICATE", primary.id)

    def _note_slot_of(self, node: Node) -> None:
        slots = self._view(node).nodes[node.id]["slots"] if node.answers else ()
        if slots:
            self._slots_of_lost[node.id] = int(slots[0][0])

    def _answering(self) -> list[Node]:
        return [node for node in self.nodes if node.answers]

    def _node(self, node_id: str) -> Node:
        return next(node for node in self.nodes if node.id == node_id)

    def _view(self, seen_by: Node | None = None) -> _View:
        return (seen_by or self._answering()[0]).look(_View.of)

    def _know_all(self, views: list[_View]) -> bool:
        return all(view.nodes.keys() == {node.id for node in self.nodes} for view in views)

    def _agreed(self, views: list[_View]) -> bool:
        there = [node.id for node in self._answering()]
        return (
            self._know_all(views)
            and all(view.whole and all(view.sees(node) for node in there) for view in views)
            and all(view.layout == views[0].layout for view in views)
            and all(view.linked for view in views if view.primary in there)
        )

    def _wait(
        self, condition: Callable[[list[_View]], bool], nodes: list[Node] | None = None, within: float = WITHIN
    ) -> None:
        """Wait until a condition holds for what nodes know, by default all that answer; they give no signal."""
        deadline = time.monotonic() + within
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(node.client()) for node in nodes or self._answering()]
            while not condition(views := [_View.of(client) for client in clients]):
                if time.monotonic() > deadline:
                    raise TimeoutError("\n".join([f"not within {within:g} s; the nodes say", *map(str, views)]))
                time.sleep(0.01)


class Clusters:
    """The clusters that tests share: each is started when first asked for and runs until the session ends."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._clusters: dict[str, Cluster] = {}
        self._started = 0

    @contextlib.contextmanager
    def lent(self, name: str, app_name: str) -> Iterator[Cluster]:
        """The cluster of a flavour, empty; AssertionError where it comes back broken or with keys of others."""
        cluster = self._clusters.get(name) or self._start(name)
        yield cluster
        try:
            foreign = cluster.emptied_at_once(app_name)
            if foreign is None:  # the nodes had no time to hear of each other
                cluster.wait_until_whole()
                foreign = cluster.foreign_keys(app_name)
        except TimeoutError as error:
            self._clusters.pop(name).end()
            raise AssertionError(
                f"the shared cluster of {name} is broken ({error}); a test that breaks one uses `start_cluster`"
            ) from error
        assert not foreign, f"left keys behind in {name} that are not of app {app_name!r}: {', '.join(foreign)}"

    def end(self) -> None:
        """End every cluster that was started."""
        for cluster in self._clusters.values():
            cluster.end()

    def _start(self, name: str) -> Cluster:
        self._started += 1
        directory = self._directory / f"{name}-{self._started}"
        cluster = self._clusters[name] = Cluster.start(name, directory, node_timeout=SHARED_NODE_TIMEOUT)
        for node in cluster.nodes:
            node.is_shared = True
            node.ask("PING")  # now, for there are tests that count connections
        return cluster


def free_ports() -> int:
    """A port that nobody uses now, as its counterpart for the talk between nodes."""
    while True:
        port = PORTS[secrets.randbelow(len(PORTS))]
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + BUS))
            return port
