"""The sentinels that other tests run on: they know their primary, and give another one when it is gone."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from aioq.config.urls import parse_servers
from tests.sentinels import MASTER, Sentinels
from tests.servers import NO_RETRY, Login, Server, available, owned_pids

pytestmark = [pytest.mark.long(seconds=15), pytest.mark.apart]

StartSentinels = Callable[..., Sentinels]


def _given_by(started: Sentinels, login: Login | None = None) -> set[int]:
    """The ports of the primary that a plain client gets from the sentinels."""
    given: set[int] = set()
    user, password = (login.user, login.password) if login else (None, None)
    for sentinel in started.sentinels:
        with redis.Redis(port=sentinel.port, retry=NO_RETRY, username=user, password=password) as client:
            address: Any = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
            given.add(int(address[1]))
    return given


def _write(server: Server, key: str) -> None:
    with server.client() as client:
        assert client.set(key, "1")
        assert client.wait(1, 5000) >= 1


def _has(server: Server, key: str) -> bool:
    with server.client() as client:
        return client.exists(key) == 1


@pytest.mark.parametrize("name", available())
def test_each_sentinel_knows_all_others(name: str, start_sentinels: StartSentinels) -> None:
    started = start_sentinels(name)

    addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in started.sentinels)
    assert started.url == f"redis+sentinel://{addresses}/{MASTER}/0"
    assert started.agreed
    assert (len(started.replicas), len(started.sentinels)) == (2, 3)
    assert {server.pid for server in (*started.servers, *started.sentinels)} <= owned_pids()
    assert _given_by(started) == {started.primary.port}
    _write(started.primary, "key")


def test_a_killed_primary_is_replaced_and_becomes_a_replica(start_sentinels: StartSentinels) -> None:
    started = start_sentinels()
    old = started.primary
    _write(old, "before")

    assert started.kill_primary() is old
    new = started.wait_for_switch(old)

    assert new is not old
    assert started.primary is new
    assert _given_by(started) == {new.port}
    assert _has(new, "before")
    started.restart(old)
    assert old in started.replicas
    _write(new, "after")


def test_a_stopped_primary_goes_on(start_sentinels: StartSentinels) -> None:
    started = start_sentinels(replicas=1, sentinels=1, quorum=1, down_after=60_000)
    primary = started.primary
    with redis.Redis(port=primary.port, socket_timeout=0.1, retry=NO_RETRY) as client:
        client.ping()

        assert started.stop_primary() is primary

        assert primary.alive
        with pytest.raises(redis.TimeoutError):
            client.ping()
        started.resume(primary)
    started.wait_until_agreed()
    assert started.primary is primary


def test_servers_and_sentinels_have_logins_of_their_own(start_sentinels: StartSentinels) -> None:
    login, own = Login("pass/word", user="jobs"), Login("watch&er", user="watch")
    started = start_sentinels(replicas=1, sentinels=2, quorum=2, login=login, sentinel_login=own)
    old = started.primary
    parts = parse_servers(started.url)

    assert parts is not None
    assert started.url.startswith("redis+sentinel://jobs:pass%2Fword@127.0.0.1:")
    assert [port for _, port in parts.addresses] == [sentinel.port for sentinel in started.sentinels]
    for port in (old.port, started.sentinels[0].port):
        with redis.Redis(port=port, retry=NO_RETRY) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    assert _given_by(started, own) == {old.port}
    for _, port in parts.addresses:
        with redis.Redis.from_url(parts.sentinel_url("127.0.0.1", port), retry=NO_RETRY) as client:
            assert client.ping()

    _write(old, "key")
    new = started.failover()
    assert new is not old
    assert _has(new, "key")


def test_sentinels_over_tls(start_tls_sentinels: StartSentinels) -> None:
    started = start_tls_sentinels(replicas=1, sentinels=1, quorum=1)
    old = started.primary

    assert started.url.startswith(
        f"rediss+sentinel://127.0.0.1:{started.sentinels[0].port}/{MASTER}/0?ssl_ca_certs="
    )
    assert started.failover() is not old
