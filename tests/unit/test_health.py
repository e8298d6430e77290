"""What health is made of, and how it is told over HTTP."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from aioq.cli import check
from aioq.cli.check import CheckPlan
from aioq.cli.child import CHILD_VARIABLE, ChildMark
from aioq.cli.health import HealthServer, ask, listen, together
from aioq.errors import ConfigError
from aioq.leases import WorkerLease
from aioq.worker import this_host
from aioq.worker.health import LIVE_LAG, READY_AGE, Health, QueueHealth, judge

GOOD = QueueHealth("w", lease=True, last_fetch_age=1.0)


def health(lag: float = 0.0, **queues: QueueHealth) -> Health:
    return judge(queues, running=1, concurrency=2, loop_lag=lag, refused=3)


@pytest.mark.parametrize(
    ("queue", "reason"),
    [
        (GOOD, None),
        (QueueHealth("w", lease=True, last_fetch_age=READY_AGE), None),
        (QueueHealth("w", lease=True, last_fetch_age=20.04), "the last successful fetch was 20.0 s ago"),
        (QueueHealth("w", lease=False, last_fetch_age=0.0), "the server has given w no lease"),
    ],
)
def test_a_queue_that_is_not_fetched_from_makes_the_worker_not_ready(
    queue: QueueHealth, reason: str | None
) -> None:
    found = health(default=GOOD, mail=queue)
    assert found.ready is (reason is None)
    assert found.reasons == ([] if reason is None else [f"queue mail: {reason}"])
    assert found.live


def test_only_a_loop_that_is_blocked_for_very_long_is_beyond_hope() -> None:
    assert health(LIVE_LAG, default=GOOD).live
    beyond = health(LIVE_LAG + 1, default=GOOD)
    assert (beyond.live, beyond.ready) == (False, False)
    assert beyond.reasons == ["the event loop has been blocked for 61 s"]


def test_processes_are_ready_together_or_not_at_all() -> None:
    one = health(default=GOOD)
    assert together({1: one, 2: one}) == Health(
        ready=True, queues={"1:default": GOOD, "2:default": GOOD}, running=2, concurrency=4, refused=6
    )
    half = together({1: one, 2: None})
    assert (half.ready, half.live, half.reasons) == (False, True, ["process 2: no answer"])
    assert not together({}).ready


# -- over HTTP


class Probe:
    def __init__(self) -> None:
        self.health = health(default=GOOD)
        self.server = HealthServer(listen("127.0.0.1", 0), lambda: self.health)

    def get(self, path: str, method: str = "GET") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
            return response.status, json.loads(body) if response.getheader("Content-Type") == JSON else body
        finally:
            connection.close()


JSON = "application/json"


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.server.close()


def test_ready_and_live_are_200_where_all_is_well(probe: Probe) -> None:
    status, body = probe.get("/ready")
    assert status == 200
    assert body["queues"]["default"] == {"worker": "w", "lease": True, "last_fetch_age": 1.0}
    assert (body["ready"], body["reasons"], body["refused"]) == (True, [], 3)
    assert probe.get("/live?verbose=1")[0] == 200


def test_what_is_not_ready_may_well_be_live(probe: Probe) -> None:
    probe.health = health(default=QueueHealth("w", lease=True, last_fetch_age=99.0))
    status, body = probe.get("/ready")
    assert (status, body["reasons"]) == (503, ["queue default: the last successful fetch was 99.0 s ago"])
    assert probe.get("/live")[0] == 200


def test_a_hopeless_worker_is_not_live(probe: Probe) -> None:
    probe.health = health(100.0, default=GOOD)
    assert probe.get("/live")[0] == 503


@pytest.mark.parametrize(("path", "method", "status"), [("/", "GET", 404), ("/ready", "POST", 501)])
def test_anything_else_is_refused(probe: Probe, path: str, method: str, status: int) -> None:
    assert probe.get(path, method)[0] == status


def test_a_port_that_is_taken_is_an_error_that_names_it(probe: Probe) -> None:
    with pytest.raises(ConfigError, match=rf"health_port: cannot listen on 127\.0\.0\.1:{probe.server.port}: "):
        listen("127.0.0.1", probe.server.port)


def test_all_addresses_are_listened_on_by_default() -> None:
    server = HealthServer(listen("", 0), lambda: health(default=GOOD))
    try:
        assert ask(server.port) == health(default=GOOD)
    finally:
        server.close()


def test_who_does_not_answer_has_no_health(probe: Probe) -> None:
    port = probe.server.port
    assert ask(port) == probe.health
    probe.server.close()
    assert ask(port) is None


# -- a supervisor's word to its child


@pytest.mark.parametrize("mark", [ChildMark(1, "abcd"), ChildMark(12, "ef01", 7)])
def test_a_child_reads_what_its_supervisor_wrote(mark: ChildMark) -> None:
    assert ChildMark.read(mark.environ()) == mark


def test_a_process_without_the_mark_is_nobodys_child() -> None:
    assert ChildMark.read({}) is None
    assert ChildMark.read({CHILD_VARIABLE: "3:ab:"}) == ChildMark(3, "ab")


# -- aioq check


def lease(worker: str = "host-1-a-1", lease_ms: int = 8000, fetched_ms: int = 100) -> WorkerLease:
    return WorkerLease(worker, lease_ms, fetched_ms)


Found = dict[str, list[WorkerLease]]


@pytest.mark.parametrize(
    ("found", "queues", "troubles"),
    [
        ({"a": [lease()], "b": []}, (), []),
        ({"a": [], "b": []}, (), ["no worker on this host serves any of the queues a, b"]),
        ({"a": [lease()], "b": []}, ("a", "b"), ["no worker on this host serves queue b"]),
        ({"a": [lease(lease_ms=0)]}, (), ["no worker on this host serves any of the queues a"]),
        ({"a": [lease(fetched_ms=15_000)]}, (), []),
        (
            {"a": [lease(), lease("host-2-b-1", fetched_ms=20_000)]},
            (),
            ["queue a: the last fetch of host-2-b-1 was 20.0 s ago, over 15 s"],
        ),
        ({"a": [lease(), lease("host-2-b-1", lease_ms=0, fetched_ms=20_000)]}, (), []),
    ],
)
def test_what_check_finds_wrong(found: Found, queues: tuple[str, ...], troubles: list[str]) -> None:
    assert check.judge(found, CheckPlan("shop:app", queues)) == troubles


def test_a_host_is_not_taken_for_another_whose_name_begins_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"a": [lease("web-7-ab12cd34-1"), lease("web-1-7-ab12cd34-1"), lease("w" * 64 + "-7-ab12cd34-1")]}
    assert [w.worker for w in check.on_host(found, "web")["a"]] == ["web-7-ab12cd34-1"]
    assert [w.worker for w in check.on_host(found, "web-1")["a"]] == ["web-1-7-ab12cd34-1"]
    monkeypatch.setattr("socket.gethostname", lambda: "w" * 70)
    assert [w.worker for w in check.on_host(found, this_host())["a"]] == ["w" * 64 + "-7-ab12cd34-1"]


def test_health_is_json_that_can_be_read_back() -> None:
    found = health(1.5, default=GOOD)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Health) == found
