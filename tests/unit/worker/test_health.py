"""What health consists of, and how it is reported over HTTP."""

import http.client
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import msgspec
import psutil
import pytest

from aioq.cli import check
from aioq.cli.check import CheckPlan
from aioq.cli.worker import health_server as module
from aioq.cli.worker.child_env import CHILD_VARIABLE, ChildMark
from aioq.cli.worker.health_server import MAX_CLIENTS, MAX_HEAD, HealthServer, ask, ask_all, listen, together
from aioq.errors import ConfigError
from aioq.store.leases import WorkerLease
from aioq.worker import this_host
from aioq.worker.health import LIVE_LAG, READY_AGE, Health, QueueHealth, judge, merged

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


@pytest.mark.parametrize(("running", "full_for", "ready"), [(0, 16, False), (0, 15, True), (1, 99, True)])
def test_a_worker_whose_slots_are_gone_is_not_ready(running: int, full_for: float, ready: bool) -> None:
    found = judge({"default": GOOD}, running=running, concurrency=2, loop_lag=0, refused=0, full_for=full_for)
    assert found.reasons == ([] if ready else ["all 2 slots have been taken for 16 s, and no job runs"])
    assert (found.ready, found.live) == (ready, True)


def test_a_sharded_queue_has_the_health_of_its_worst_shard() -> None:
    slow = QueueHealth("w2", lease=True, last_fetch_age=9.0)
    stuck = QueueHealth("w3", lease=True, last_fetch_age=20.0)
    lost = QueueHealth("w4", lease=False, last_fetch_age=0.0)
    assert merged({"mail": GOOD, "other": GOOD}) == {"mail": GOOD, "other": GOOD}
    assert merged({"mail": GOOD, "mail#1": slow}) == {"mail": msgspec.structs.replace(slow, shards=2)}
    assert merged({"mail": GOOD, "mail#1": lost, "mail#2": slow})["mail"].worker == "w4"
    found = judge(merged({"mail": GOOD, "mail#1": stuck}), running=0, concurrency=1, loop_lag=0, refused=0)
    assert found.reasons == ["queue mail: the last successful fetch was 20.0 s ago"]


def lease_of(worker: str, lease_ms: int = 5_000, fetched_ms: int = 100) -> WorkerLease:
    return WorkerLease(worker, lease_ms, fetched_ms)


def test_the_check_shows_a_worker_of_all_shards_once() -> None:
    found = {
        "default": [lease_of("host-1-a-1")],
        "mail": [lease_of("host-1-a-2", 3_000), lease_of("host-2-b-1")],
        "mail#1": [lease_of("host-1-a-3", fetched_ms=900)],
    }
    assert check.rows(found) == [
        ("default", lease_of("host-1-a-1")),
        ("mail (2 shards)", lease_of("host-1-a", 3_000, 900)),
        ("mail (1 of 2 shards)", lease_of("host-2-b")),
    ]


@pytest.mark.parametrize(
    ("second", "troubles"),
    [
        ([lease_of("host-1-a-3")], []),
        ([], ["no worker on this host serves 1 of the 2 shards of queue mail"]),
        ([lease_of("host-1-a-3", 0)], ["no worker on this host serves 1 of the 2 shards of queue mail"]),
    ],
)
def test_each_shard_of_a_queue_must_be_served(second: list[WorkerLease], troubles: list[str]) -> None:
    found = {"mail": [lease_of("host-1-a-2")], "mail#1": second}
    assert check.judge(found, CheckPlan("shop:app", ("mail",))) == troubles
    assert check.judge(dict.fromkeys(found, ()), CheckPlan("shop:app", ("mail",))) == [
        "no worker on this host serves queue mail"
    ]


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


@pytest.mark.parametrize("host", ["", "::", "0.0.0.0", "localhost"])
def test_all_addresses_are_listened_on_where_that_is_asked_for(host: str) -> None:
    server = HealthServer(listen(host, 0), lambda: health(default=GOOD))
    try:
        assert ask(server.port) == health(default=GOOD)
    finally:
        server.close()


def test_who_does_not_answer_has_no_health(probe: Probe) -> None:
    port = probe.server.port
    assert ask(port) == probe.health
    probe.server.close()
    assert ask(port) is None


# -- clients that take their time, and many of them


def connected(port: int, text: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(text)
    return client


def answer(client: socket.socket) -> bytes:
    """All that comes until the other side has nothing more to say."""
    with client, client.makefile("rb") as answers:
        return answers.read()


@pytest.mark.parametrize("text", [b"", b"GET /ready HT", b"GET /ready HTTP/1.1\r\nHost: a\r\n"])
def test_a_request_has_a_deadline_as_a_whole(probe: Probe, monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(module, "REQUEST_TIMEOUT", 0.05)
    with connected(probe.server.port, text) as client, suppress(ConnectionResetError):
        assert client.recv(1) == b""


def test_a_body_is_not_waited_for(probe: Probe) -> None:
    head = b"GET /ready HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"
    client = connected(probe.server.port, head + b"slow")
    assert client.recv(15) == b"HTTP/1.0 200 OK"
    client.close()


@pytest.mark.parametrize("text", [b"GET /" + b"x" * 2 * MAX_HEAD, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * MAX_HEAD])
def test_a_head_has_a_bound(probe: Probe, text: bytes) -> None:
    # The answer is lost where the rest of the head meets a closed door.
    with connected(probe.server.port) as client, suppress(ConnectionResetError, BrokenPipeError):
        client.sendall(text)
        assert client.recv(12) == b"HTTP/1.0 431"
    assert probe.get("/ready")[0] == 200


def test_what_is_no_http_is_harmless(probe: Probe) -> None:
    for text in (b"\x16\x03\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"\r\n\r\n", b"GET /ready HTTP/9.9\r\n\r\n"):
        assert b" 200 " not in answer(connected(probe.server.port, text))
    assert probe.get("/ready")[0] == 200


def test_clients_that_are_silent_keep_no_probe_out_and_take_few_descriptors(probe: Probe) -> None:
    probe.get("/ready")
    process = psutil.Process()
    with ExitStack() as stack:
        before = process.num_fds()
        for _ in range(150):
            stack.enter_context(connected(probe.server.port, b"GET /ready"))
        assert probe.get("/ready")[0] == 200  # so all before it have had their turn
        assert process.num_fds() - before - 150 <= MAX_CLIENTS + 2  # the one that comes, and the one that goes


def test_a_process_without_descriptors_does_not_spin(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACCEPT_RETRY", 0.05)
    refused = threading.Event()
    times: list[float] = []

    def note(*_: object) -> None:
        times.append(time.monotonic())
        if len(times) == 3:
            refused.set()

    monkeypatch.setattr(module.log, "debug", note)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        client.settimeout(10)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            client.connect(("127.0.0.1", probe.server.port))
            assert refused.wait(10)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert times[2] - times[0] >= 0.09
        client.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
        assert client.recv(15) == b"HTTP/1.0 200 OK"


def test_concurrent_requests_share_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_TIMEOUT", 30.0)  # however busy this machine is
    asked: list[None] = []
    go_on = threading.Event()

    def slow() -> Health:
        asked.append(None)
        go_on.wait(30)
        return health(default=GOOD)

    server = HealthServer(listen("127.0.0.1", 0), slow)
    with ExitStack() as stack:
        stack.callback(server.close)
        stack.callback(go_on.set)
        asking = [stack.enter_context(connected(server.port, b"GET /ready HTTP/1.0\r\n\r\n")) for _ in range(5)]
        end = time.monotonic() + 30
        while sum(client.asks for client in tuple(server._clients.values())) < 5:
            assert time.monotonic() < end
            time.sleep(0.001)
        for _ in range(100):  # these make no room at the cost of those who ask
            stack.enter_context(connected(server.port))
        go_on.set()
        assert all(b" 200 OK" in answer(client) for client in asking)
    assert len(asked) <= 2  # one who came after the answer gets his own


@pytest.mark.alone
def test_processes_are_asked_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHILD_TIMEOUT", 0.3)
    with ExitStack() as stack:
        stuck = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(10)]
        begun = time.monotonic()
        found = ask_all({number: each.getsockname()[1] for number, each in enumerate(stuck)} | {99: None})
        assert time.monotonic() - begun < 2
    assert found == dict.fromkeys([*range(10), 99])


# -- a supervisor's word to its child


@pytest.mark.parametrize("mark", [ChildMark(1, "abcd"), ChildMark(12, "ef01", 7)])
def test_a_child_reads_what_its_supervisor_wrote(mark: ChildMark) -> None:
    assert ChildMark.read(mark.environ()) == mark


def test_a_process_without_the_mark_is_no_supervisors_child() -> None:
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
        ({"a": [lease(lease_ms=0)]}, (), ["no worker on this host serves queue a"]),
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
