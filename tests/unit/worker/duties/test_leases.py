"""The lease service, with a lease client that does what the test says. Its thread is real."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError
from aioq.store.leases import LeaseClient, LeaseRequest, PermitLease, Renewal
from aioq.worker.duties import leases
from aioq.worker.duties.leases import RENEWALS, SWEEP_EVERY, LeaseService
from aioq.worker.identity import Incarnation, Membership
from tests.unit.kit import running, turns, until, within

pytestmark = pytest.mark.anyio


class ScriptedLeaseClient(LeaseClient):
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.threads: set[int] = set()
        self.script: list[Renewal | ServerError] = []
        self.closed = 0
        self.rounds = 0
        self.sweeps: list[bool] = []
        self.on_call = lambda: None
        self.requests: list[LeaseRequest] = []

    def renew_all(self, requests: Sequence[LeaseRequest]) -> Sequence[Renewal | ServerError]:
        self.rounds += 1
        return [self._next(each) for each in requests]

    def renew_permits(self, leases: Sequence[PermitLease]) -> Sequence[int | ServerError]:
        raise AssertionError("a worker's leases are those of its queues alone")

    def close(self) -> None:
        self.closed += 1

    def _next(self, request: LeaseRequest) -> Renewal | ServerError:
        self.requests.append(request)
        verb = "join" if request.mode == "join" else "renew"
        if verb == "renew":
            self.sweeps.append(request.mode == "sweep")
        self.threads.add(threading.get_ident())
        self.calls.append((verb, request.queue, request.worker))
        self.on_call()
        return self.script.pop(0) if self.script else Renewal()


class Leases:
    def __init__(self, *queues: str, lease: float = 3600) -> None:
        self.lease_client = ScriptedLeaseClient()
        self.memberships = [Membership(queue, Incarnation()) for queue in queues]
        self.renewals: list[tuple[str, Renewal, bool]] = []
        self.lost: list[tuple[str, str]] = []
        self.service = LeaseService(
            self.lease_client,
            self.memberships,
            lease,
            on_renewal=lambda membership, renewal, healed: self.renewals.append(
                (membership.queue, renewal, healed)
            ),
            on_lost=self._lost,
            on_asked=lambda queue, request: self.service.answer(queue, request, b"done"),
        )

    def _lost(self, membership: Membership, worker: str) -> None:
        self.lost.append((membership.queue, worker))
        membership.lose(worker)
        self.service.renew_now()


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Leases]]:
    made: list[Leases] = []

    def leases(*queues: str, lease: float = 3600) -> Leases:
        made.append(Leases(*queues, lease=lease))
        return made[-1]

    yield leases
    for each in made:
        each.service._stopping = True
        each.service.renew_now()
        if each.service._thread.ident is not None:
            await asyncio.to_thread(each.service._thread.join)


async def test_it_joins_every_queue_in_a_thread_of_its_own(make: Callable[..., Leases]):
    leases = make("a", "b")
    async with running(leases.service.run()):
        await until(lambda: all(each.joined for each in leases.memberships))
        await until(lambda: len(leases.renewals) == 2)
        assert leases.lease_client.calls == [("join", each.queue, each.worker) for each in leases.memberships]
        assert threading.get_ident() not in leases.lease_client.threads
        assert leases.renewals == [("a", Renewal(), False), ("b", Renewal(), False)]


async def test_then_it_renews_several_times_within_the_lease(make: Callable[..., Leases]):
    leases = make("a", lease=0.2)
    loop = asyncio.get_running_loop()
    async with running(leases.service.run()):
        await until(lambda: leases.renewals)
        started = loop.time()
        await until(lambda: len(leases.renewals) >= 1 + RENEWALS)
        assert loop.time() - started >= 0.05 * (RENEWALS - 1)
    assert [verb for verb, _, _ in leases.lease_client.calls[:3]] == ["join", "renew", "renew"]


async def test_now_and_then_it_sweeps(make: Callable[..., Leases]):
    leases = make("a")
    async with running(leases.service.run()):
        for round_ in range(1, 2 * SWEEP_EVERY + 1):
            await until(lambda: len(leases.renewals) == round_)  # noqa: B023 - it is asked at once
            leases.service.renew_now()
    swept = [round_ for round_, sweep in enumerate(leases.lease_client.sweeps[: 2 * SWEEP_EVERY - 1], 2) if sweep]
    assert swept == [SWEEP_EVERY, 2 * SWEEP_EVERY]


async def test_the_sweeps_of_many_queues_are_spread_over_the_rounds(make: Callable[..., Leases]):
    leases = make(*(f"q{number}" for number in range(SWEEP_EVERY)))
    async with running(leases.service.run()):
        for round_ in range(1, 2 * SWEEP_EVERY + 1):
            await until(lambda: len(leases.renewals) == round_ * SWEEP_EVERY)  # noqa: B023 - it is asked at once
            leases.service.renew_now()
    rounds = [leases.lease_client.sweeps[n : n + SWEEP_EVERY] for n in range(0, SWEEP_EVERY**2, SWEEP_EVERY)]
    assert [each.count(True) for each in rounds] == [1] * SWEEP_EVERY
    assert {each.index(True) for each in rounds} == set(range(SWEEP_EVERY))


async def test_all_queues_are_renewed_with_one_call(make: Callable[..., Leases]):
    leases = make("a", "b", "c")
    async with running(leases.service.run()):
        await until(lambda: len(leases.renewals) == 3)
        assert leases.lease_client.rounds == 1


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_one_queue_that_is_refused_does_not_touch_the_others(make: Callable[..., Leases], position: int):
    """At the start too, where a refusal of all queues would end the worker."""
    leases = make("a", "b", "c")
    refused = ServerRejectedError("refused a key")
    leases.lease_client.script = [Renewal()] * 3
    leases.lease_client.script[position] = refused
    async with running(leases.service.run()):
        await until(lambda: len(leases.renewals) >= 3)
    queue = "abc"[position]
    (others, after) = leases.renewals[:2], leases.renewals[2:]
    assert [each for each, _, _ in others] == [each for each in "abc" if each != queue]
    assert (after[0][0], after[0][2]) == (queue, True)


async def test_between_two_rounds_only_the_queue_that_failed_is_tried_again(make: Callable[..., Leases]):
    leases = make("a", "b", "c")
    gone = ServerUnavailableError("gone")
    leases.lease_client.script = [Renewal(), gone, Renewal(), gone, gone, Renewal()]
    async with running(leases.service.run()):
        await until(lambda: len(leases.renewals) == 3)
        leases.service.renew_now()
        await until(lambda: len(leases.renewals) == 6)
    assert [queue for _, queue, _ in leases.lease_client.calls] == [*"abc", *"bbb", *"abc"]


async def test_a_renewal_is_passed_on(make: Callable[..., Leases]):
    leases = make("a")
    renewal = Renewal(next_due_ms=5, expired=True, cancelled=["x"])
    leases.lease_client.script = [renewal]
    async with running(leases.service.run()):
        await until(lambda: leases.renewals)
    assert leases.renewals == [("a", renewal, False)]


async def test_in_a_hurry_it_renews_at_once(make: Callable[..., Leases]):
    leases = make("a")
    async with running(leases.service.run()):
        await until(lambda: leases.renewals)
        leases.service.renew_now()
        await until(lambda: len(leases.renewals) == 2)


async def test_a_lost_lease_is_reported_and_the_worker_joins_again_under_a_new_id(make: Callable[..., Leases]):
    leases = make("a", "b")
    (first, _) = leases.memberships
    old = first.worker
    leases.lease_client.script = [Renewal(), Renewal(), Renewal(lost=True), Renewal()]
    async with running(leases.service.run()):
        await until(lambda: len(leases.renewals) == 2)
        leases.service.renew_now()
        await until(lambda: leases.lost and first.joined)
    assert leases.lost == [("a", old)]
    assert first.worker != old
    assert ("join", "a", first.worker) in leases.lease_client.calls


async def test_an_outage_is_said_once_and_the_first_renewal_after_it_is_marked(
    make: Callable[..., Leases], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING, "aioq.worker")
    leases = make("a")
    leases.lease_client.script = [Renewal(), *[ServerUnavailableError("redis://x is down")] * 3]
    async with running(leases.service.run()):
        await until(lambda: leases.renewals)
        leases.service.renew_now()
        await until(lambda: len(leases.renewals) == 2)
        leases.service.renew_now()
        await until(lambda: len(leases.renewals) == 3)
    assert [healed for _, _, healed in leases.renewals] == [False, True, False]
    assert [record.getMessage() for record in caplog.records] == [
        "queue a: redis://x is down; trying again until it is back",
        "queue a: the server is back",
    ]
    assert leases.memberships[0].joined  # an outage is no loss


async def test_an_outage_that_the_store_has_seen_is_marked_too(make: Callable[..., Leases]):
    leases = make("a")
    leases.lease_client.script = [Renewal(outage=True), Renewal()]
    async with running(leases.service.run()):
        await until(lambda: leases.renewals)
        leases.service.renew_now()
        await until(lambda: len(leases.renewals) == 2)
    assert [healed for _, _, healed in leases.renewals] == [True, False]


async def test_it_renews_while_the_event_loop_is_blocked(make: Callable[..., Leases]):
    leases = make("a", lease=0.2)
    async with running(leases.service.run()):
        await until(lambda: leases.renewals)
        before, renewed = leases.lease_client.rounds, threading.Event()

        def note() -> None:
            if leases.lease_client.rounds > before + 3:
                renewed.set()

        leases.lease_client.on_call = note
        assert renewed.wait(10)  # noqa: ASYNC251, RUF100 - blocks the loop on purpose


async def test_a_stop_ends_the_thread_and_closes_the_lease_client(make: Callable[..., Leases]):
    leases = make("a")
    async with running(leases.service.run()) as (task,):
        await until(lambda: leases.renewals)
        await within(leases.service.stop())
        await within(asyncio.wait([task]))
        assert task.done()
    await asyncio.to_thread(leases.service._thread.join)
    assert leases.lease_client.closed == 1
    calls = len(leases.lease_client.calls)
    leases.service.renew_now()
    await turns()
    assert len(leases.lease_client.calls) == calls


async def test_cancelling_ends_the_thread_too(make: Callable[..., Leases]):
    leases = make("a")
    async with running(leases.service.run()):
        await until(lambda: leases.renewals)
    await asyncio.to_thread(leases.service._thread.join)
    assert leases.lease_client.closed == 1


async def test_a_worker_that_has_served_waits_out_a_refusal_and_logs_it_once(
    make: Callable[..., Leases], caplog: pytest.LogCaptureFixture
):
    """A password that was changed. Two queues have one server."""
    leases = make("q", "r", lease=0.1)
    changed = ServerRejectedError("refused the login")
    leases.lease_client.script = [Renewal(), Renewal(), *[changed] * 6]
    async with running(leases.service.run()):
        await until(lambda: leases.service.rejection("q") and leases.service.rejection("r"))
        assert leases.service.rejection("q") == "refused the login"
        await until(lambda: len(leases.renewals) >= 4 and not leases.service.rejection("q"))
        await until(lambda: not leases.service.rejection("r"))
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(logged) == 2
    assert "refused the login; trying again" in logged[0]
    assert "the server is back" in logged[1]


async def test_a_refusal_at_the_start_ends_the_service(make: Callable[..., Leases]):
    leases = make("q")
    leases.lease_client.script = [ServerRejectedError("refused the login")]
    with pytest.raises(ServerRejectedError):
        await within(leases.service.run())


class Counted:
    """A backoff whose pauses are numbered."""

    def __init__(self) -> None:
        self._made = 0

    def next(self) -> float:
        self._made += 1
        return self._made


async def test_trouble_of_one_queue_changes_nothing_in_the_pauses_of_another(
    make: Callable[..., Leases], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(leases, "Backoff", Counted)
    service, gone = make("mail", "post").service, ServerUnavailableError("gone")

    assert [service._note_trouble("mail", gone) for _ in range(3)] == [1, 2, 3]
    assert service._note_trouble("post", gone) == 1
    assert service._note_trouble("mail", gone) == 4
    assert service._note_success("mail")
    assert service._note_trouble("mail", gone) == 1
    assert service._note_trouble("post", gone) == 2


async def test_what_is_asked_for_is_answered_with_a_renewal_of_that_queue_alone(make: Callable[..., Leases]):
    leases = make("a", "b")
    client = leases.lease_client
    async with running(leases.service.run()):
        await until(lambda: len(leases.renewals) == 2)
        await until(lambda: all(each.joined for each in leases.memberships))
        client.script = [Renewal(asked=("1\nwhat",)), ServerUnavailableError("gone"), Renewal()]
        leases.service.renew_one("b")
        await until(lambda: len(leases.renewals) == 4)
    assert [request.queue for request in client.requests] == ["a", "b", "b", "b", "b"]
    # Again after a renewal that has failed, and then no more.
    assert [list(request.answers) for request in client.requests[2:]] == [[], *[[("1\nwhat", b"done")]] * 2]


async def test_rounds_come_in_time_however_often_one_queue_is_renewed_between(make: Callable[..., Leases]):
    leases = make("a", "b", lease=0.4)
    async with running(leases.service.run()):
        await until(lambda: all(each.joined for each in leases.memberships))
        while [verb for verb, queue, _ in leases.lease_client.calls if queue == "a"].count("renew") < 2:
            leases.service.renew_one("b")
            await turns()


async def test_the_last_answers_go_when_it_stops(make: Callable[..., Leases]):
    leases = make("a")
    async with running(leases.service.run()):
        await until(lambda: leases.memberships[0].joined)
        leases.service.answer("a", "1\nwhat", b"done")
        await leases.service.stop()
    assert [answer for request in leases.lease_client.requests for answer in request.answers] == [
        ("1\nwhat", b"done")
    ]


class Announcing:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.failures = 0

    def due(self, queue: str, mode: str) -> bytes:
        self.asked.append((queue, mode))
        return b"about"

    def failed(self, queue: str) -> None:
        assert queue == "a"
        self.failures += 1


async def test_what_the_worker_says_of_itself_goes_with_its_renewals(make: Callable[..., Leases]):
    leases, announcing = make("a"), Announcing()
    leases.service._announcer = announcing  # pyright: ignore[reportAttributeAccessIssue]
    leases.lease_client.script = [ServerUnavailableError("gone"), Renewal(), Renewal()]
    async with running(leases.service.run()):
        await until(lambda: leases.memberships[0].joined)
        leases.service.renew_now()
        await until(lambda: len(leases.renewals) == 2)
    assert (announcing.asked, announcing.failures) == ([("a", "join"), ("a", "join"), ("a", "")], 1)
    assert {request.about for request in leases.lease_client.requests} == {b"about"}


async def test_a_queue_that_was_removed_is_not_renewed_any_more(make: Callable[..., Leases]):
    leases = make("a", "b")
    async with running(leases.service.run()):
        await until(lambda: all(each.joined for each in leases.memberships))
        leases.lease_client.script = [ServerUnavailableError("gone")]
        leases.service.answer("b", "1\nwhat", b"done")
        await within(leases.service.remove(leases.memberships[1]))  # once the answer has gone
        renewed = len(leases.renewals)
        leases.service.renew_now()
        await until(lambda: len(leases.renewals) == renewed + 1)
    assert leases.renewals[-1][0] == "a"
    assert ("1\nwhat", b"done") in [each for sent in leases.lease_client.requests for each in sent.answers]
