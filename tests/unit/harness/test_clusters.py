"""The clusters that other tests run on: each starts whole, moves slots, loses nodes and promotes replicas."""

import re
import socket
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from aioq.config.urls import parse_servers
from tests.clusters import BUS, Cluster, Clusters, Manner, Node, free_ports
from tests.servers import NO_RETRY, Login, Server, available, owned_pids

pytestmark = pytest.mark.long(seconds=25)

StartCluster = Callable[..., Cluster]
AsStarted = Callable[[], Cluster]


@pytest.fixture(scope="module", params=available())
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this module, each of whose primaries has a replica."""
    with Cluster.start(request.param, tmp_path_factory.mktemp("own"), replicas=1) as cluster:
        yield cluster


@pytest.fixture
def name(own: Cluster) -> str:
    return own.name


def _key_in(cluster: Cluster, node: Node, word: str = "") -> str:
    """A key in a slot of a node."""
    slots = cluster.slots_of(node)
    keys = (f"{{{word}{number}}}" for number in count())
    return next(key for key in keys if any(cluster.slot_of(key) in each for each in slots))


def _other(cluster: Cluster, node: Node) -> Node:
    return next(each for each in cluster.primaries if each is not node)


def test_every_node_takes_its_part_of_the_keys(own: Cluster) -> None:
    assert own.agreed
    assert len(own.primaries) == 3
    assert all(len(own.replicas_of(primary)) == 1 for primary in own.primaries)
    parts = parse_servers(own.url)
    assert parts is not None
    assert [port for _, port in parts.addresses] == [node.port for node in own.nodes]
    assert own.url == "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in own.nodes)
    key = _key_in(own, own.primaries[1])
    with own.primaries[0].client() as client, pytest.raises(MovedError):
        client.set(key, "1")
    with RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", own.nodes[0].port)]) as client:
        assert all(client.set(f"key-{number}", number) for number in range(50))
    assert sum(node.ask("DBSIZE") for node in own.primaries) == 50

    own.flush()

    assert [node.ask("DBSIZE") for node in own.nodes] == [0] * 6


def test_in_the_middle_of_a_migration(own: Cluster) -> None:
    source = own.primaries[0]
    target = _other(own, source)
    key = _key_in(own, source)
    here, there = f"{key}here", f"{key}there"
    source.ask("MSET", here, "1", there, "2")

    with own.moving_slot(own.slot_of(key), target) as migration:
        assert (migration.source, migration.target) == (source, target)
        migration.move([there])
        assert source.ask("GET", here) == "1"
        with pytest.raises(AskError):
            source.ask("GET", there)
        # Redis 6.2 sends to the target, which answers TRYAGAIN, as it does to all others.
        with pytest.raises(AskError if own.name == "redis-6.2" else TryAgainError):
            source.ask("MGET", here, there)
        with target.client() as client:
            client.execute_command("ASKING")
            with pytest.raises(TryAgainError):
                client.execute_command("MGET", here, there)
        assert migration.move_keys(1) == 1
        assert migration.move_keys() == 0
        with pytest.raises(AskError):
            source.ask("MGET", here, there)
        with pytest.raises(MovedError):
            target.ask("GET", here)

    assert own.node_of(own.slot_of(key)) is target
    assert target.ask("MGET", here, there) == ["1", "2"]
    with pytest.raises(MovedError):
        source.ask("GET", here)
    own.move_slot(own.slot_of(key), source).finish()
    assert source.ask("DEL", here, there) == 2


def test_a_node_joins_and_leaves(own: Cluster) -> None:
    source = own.primaries[0]
    key = _key_in(own, source)

    source.ask("SET", key, "1")

    joined = own.add_node()
    own.move_slot(own.slot_of(key), joined).finish()

    assert joined.ask("GET", key) == "1"
    assert joined.ask("DEL", key) == 1
    with pytest.raises(AssertionError, match="move its slots"):
        own.forget(joined)
    own.move_slot(own.slot_of(key), source).finish()
    own.forget(joined)
    assert own.agreed
    assert len(own.nodes) == 6
    assert not joined.server.alive


def test_a_replica_joins_and_leaves(own: Cluster) -> None:
    primary = own.primaries[0]

    joined = own.add_node(replica_of=primary)

    assert joined in own.replicas_of(primary)
    own.forget(joined)
    assert len(own.replicas_of(primary)) == 1


def test_a_promoted_replica_takes_writes(own: Cluster) -> None:
    manners: list[Manner] = ["", "FORCE", "TAKEOVER"]
    # Each of another primary: for one and the same, a vote within two node timeouts is refused.
    for primary, manner in zip(own.primaries, manners, strict=True):
        key = _key_in(own, primary)
        [replica] = own.replicas_of(primary)

        own.promote(replica, manner)

        assert own.node_of(own.slot_of(key)) is replica
        assert own.replicas_of(replica) == [primary]
        assert replica.ask("SET", key, "1")
        assert replica.ask("DEL", key) == 1


@pytest.mark.parametrize("own", available()[-1:], indirect=True)  # it takes three seconds
def test_a_killed_primary_is_replaced_and_becomes_a_replica(own: Cluster) -> None:
    primary = own.primaries[0]
    key = _key_in(own, primary)
    [replica] = own.replicas_of(primary)

    own.kill(primary)

    assert own.wait_for_promotion(primary) is replica
    assert not own.agreed
    assert replica.ask("SET", key, "1")
    own.restart(primary)
    assert own.replicas_of(replica) == [primary]
    assert replica.ask("DEL", key) == 1


def test_a_stopped_node_goes_on(own: Cluster) -> None:
    primary = own.primaries[0]
    with redis.Redis(port=primary.port, socket_timeout=0.1, retry=NO_RETRY) as client:
        client.ping()

        own.stop(primary)

        assert primary.server.alive
        assert not primary.answers
        assert primary not in own.primaries
        with pytest.raises(redis.TimeoutError):
            client.ping()
        own.resume(primary)
    own.wait_until_agreed()


@pytest.mark.parametrize("name", available())
def test_where_all_slots_are_required_no_node_takes_commands_without_one(
    name: str, start_cluster: StartCluster
) -> None:
    cluster = start_cluster(name, full_coverage=True)
    lost, left = cluster.primaries[:2]
    cluster.kill(lost)
    cluster.wait_until_down()
    with pytest.raises(ClusterDownError):
        left.ask("SET", _key_in(cluster, left), "1")
    cluster.restart(lost)
    for node in cluster.primaries:
        node.ask("SET", _key_in(cluster, node), "1")
        assert node.ask("CONFIG GET", "cluster-require-full-coverage") == {"cluster-require-full-coverage": "yes"}


def test_the_login_is_that_of_clients_and_replicas_and_of_moved_keys(start_cluster: StartCluster) -> None:
    cluster = start_cluster(primaries=2, replicas=1, login=Login("pass/word", user="jobs"), appendonly=True)
    source, target = cluster.primaries
    key = _key_in(cluster, source)
    source.ask("SET", key, "1")
    cluster.move_slot(cluster.slot_of(key), target).finish()

    assert target.ask("GET", key) == "1"
    assert cluster.url.startswith(f"redis+cluster://jobs:pass%2Fword@127.0.0.1:{cluster.nodes[0].port},127.0.0.1:")
    with redis.Redis(port=source.port, retry=NO_RETRY) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_over_tls(start_tls_cluster: StartCluster) -> None:
    cluster = start_tls_cluster(primaries=2)
    source, target = cluster.primaries
    cluster.add_node(replica_of=source)
    key = _key_in(cluster, source)
    source.ask("SET", key, "1")
    cluster.move_slot(cluster.slot_of(key), target).finish()

    assert target.ask("GET", key) == "1"
    assert re.fullmatch(r"rediss\+cluster://(127\.0\.0\.1:\d+,?){3}\?ssl_ca_certs=.*ca\.pem", cluster.url)


def test_another_port_is_taken_where_that_of_the_bus_is_taken(name: str, tmp_path: Path) -> None:
    taken, free = free_ports(), free_ports()
    ports = iter([taken, free])
    with socket.create_server(("127.0.0.1", taken + BUS)):
        options = ["--cluster-enabled", "yes"]
        with Server.start(name, tmp_path, tcp=True, choose_port=lambda: next(ports), extra_args=options) as server:
            assert server.port == free


def test_the_shared_cluster_is_empty_and_known(cluster: Cluster, app_name: str) -> None:
    cluster.wait_until_agreed()  # on a busy machine a node may have been silent for a moment
    assert {node.server.pid for node in cluster.nodes} <= owned_pids()
    assert [node.ask("DBSIZE") for node in cluster.nodes] == [0] * 3
    with RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", cluster.nodes[0].port)]) as client:
        client.set(f"aioq:{{{app_name}:mail}}:jobs", 1)


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Clusters]:
    clusters = Clusters(tmp_path)
    yield clusters
    clusters.end()


def test_what_comes_back_broken_or_full_is_an_error(clusters: Clusters) -> None:
    name = available()[-1]
    used: list[Cluster] = []

    def use(harm: Callable[[Cluster], object]) -> None:
        with clusters.lent(name, "mine") as cluster:
            used.append(cluster)
            assert [node.ask("DBSIZE") for node in cluster.nodes] == [0] * 3
            harm(cluster)

    def write(cluster: Cluster) -> None:
        for key in ("aioq:{mine:mail}:jobs", "foreign"):
            cluster.node_of(cluster.slot_of(key)).ask("SET", key, "1")

    with pytest.raises(AssertionError, match=r"not of app 'mine': 0/foreign$"):
        use(write)
    with pytest.raises(AssertionError, match="is broken"):
        use(lambda cluster: cluster.kill(cluster.nodes[0]))
    assert used[0] is used[1]
    assert not any(node.server.alive for node in used[0].nodes)
    use(lambda cluster: cluster.wait_until_agreed())
