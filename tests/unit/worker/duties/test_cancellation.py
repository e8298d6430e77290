from collections.abc import Callable

import pytest

from aioq.errors import ServerUnavailableError
from aioq.store.pubsub import ASK, worker_channel
from aioq.wire.messages import encode_cancellation
from aioq.worker.duties import cancellation as module
from aioq.worker.duties.cancellation import Canceller
from aioq.worker.identity import Incarnation, Membership
from tests.unit.kit import QUEUE, running, until

pytestmark = pytest.mark.anyio


class Inbox:
    """A subscription whose messages the test sends."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.listeners: dict[str, tuple[Callable[[bytes], None], Callable[[], None]]] = {}

    async def listen(self, channel: str, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.listeners[channel] = on_message, on_gap

    async def leave(self, channel: str) -> None:
        self.listeners.pop(channel, None)

    def check_server(self) -> None:
        raise AssertionError("not this duty's")


class Listening:
    """A canceller, and what it tells the others."""

    def __init__(self, *faults: Exception) -> None:
        self.inbox = Inbox(*faults)
        self.membership = Membership(QUEUE, Incarnation())
        self.cancelled: list[tuple[str, str, str]] = []
        self.gaps = self.leads = self.asked = 0
        self.canceller = Canceller(
            self.inbox,
            "shop",
            self.membership,
            cancel=lambda *args: self.cancelled.append(args),
            on_gap=self._on_gap,
            on_lead=self._on_lead,
            on_asked=self._on_asked,
        )

    def _on_gap(self) -> None:
        self.gaps += 1

    def _on_asked(self) -> None:
        self.asked += 1

    def _on_lead(self) -> None:
        self.leads += 1

    async def listener(self) -> tuple[Callable[[bytes], None], Callable[[], None]]:
        """What it listens with under the worker's present id."""
        self.membership.confirm(self.membership.worker)
        channel = worker_channel("shop", QUEUE, self.membership.worker)
        return await until(lambda: self.inbox.listeners.get(channel))  # pyright: ignore[reportReturnType] - until it is there


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "next", lambda _: 0.0)


async def test_a_message_cancels_a_job_or_makes_this_worker_the_leader_or_asks_it():
    listening = Listening()
    async with running(listening.canceller.run()):
        on_message, on_gap = await listening.listener()
        on_message(b"a\n" + encode_cancellation("shop.add", "too late"))
        on_message(b"b\nnot an outcome")
        on_message(b"c")
        on_message(b"")
        on_message(ASK)
        on_gap()

    assert listening.cancelled == [(QUEUE, "a", "too late"), (QUEUE, "b", ""), (QUEUE, "c", "")]
    assert (listening.leads, listening.gaps, listening.asked) == (1, 1, 1)
    assert listening.inbox.listeners == {}, "it listens no more"


async def test_it_listens_under_each_id_that_the_worker_takes():
    listening = Listening()
    async with running(listening.canceller.run()):
        await listening.listener()
        listening.membership.lose(listening.membership.worker)
        await listening.listener()
        assert len(listening.inbox.listeners) == 1


async def test_it_tries_again_where_the_server_refuses():
    listening = Listening(ServerUnavailableError("down"))
    async with running(listening.canceller.run()):
        await listening.listener()
    assert listening.inbox.faults == []
