"""Duty: renews the worker's leases, in a thread of its own.

A task that blocks the event loop does not cost the worker its leases, because this thread does not need the loop.
It has its own connection, over which it renews each queue's lease four times within the lease's length.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf

from aioq.errors import ServerError, ServerRejectedError
from aioq.store.leases import LeaseClient, LeaseRequest, Renewal, RenewalMode
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.worker.about import Announcer
from aioq.worker.identity import Membership

log = logger("aioq.worker")

SWEEP_EVERY = 8
"""Every how many renewals a sweep is made: with the default lease every 16 s. What a sweep finds is rare."""

RENEWALS = 4
"""Renewals within one lease: three may fail before it ends."""


class LeaseService:
    """Renews a worker's leases, one for each queue.

    Args:
        lease_client: the connection, used only by the thread.
        memberships: one for each queue.
        lease: the lease's length in seconds.
        on_renewal: called on the event loop with the reply to each renewal, and whether it is the first one after
            an outage, noticed here or by the store (`Renewal.outage`).
        on_lost: called on the event loop with the membership and the worker id whose lease was lost.
        fetched_ago: called in the thread; returns how many seconds ago jobs of a queue were last fetched.
        announcer: decides what the worker says of itself with a renewal; None for nothing.
        on_asked: called in the thread with a queue and what the worker is asked for there.
    """

    def __init__(
        self,
        lease_client: LeaseClient,
        memberships: Sequence[Membership],
        lease: float,
        *,
        on_renewal: Callable[[Membership, Renewal, bool], None],
        on_lost: Callable[[Membership, str], None],
        fetched_ago: Callable[[str], float] = lambda _: 0.0,
        announcer: Announcer | None = None,
        on_asked: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        self._lease_client = lease_client
        self._fetched_ago = fetched_ago
        self._memberships = memberships
        self._interval = lease / RENEWALS
        self._on_renewal = on_renewal
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._announcer = announcer
        self._on_asked = on_asked
        # Other threads append to these.
        self._single: deque[str] = deque()
        self._answers: deque[tuple[str, str, bytes]] = deque()
        self._unsent: dict[str, list[tuple[str, bytes]]] = {}
        self._leaving: deque[tuple[str, asyncio.Event]] = deque()
        self._is_round_due = False
        self._wake = threading.Event()
        self._stopping = False
        self._round = 0
        self._error: BaseException | None = None
        self._done = asyncio.Event()
        self._troubled: dict[str, Backoff] = {}  # by queue
        self._rejections: dict[str, str] = {}
        self._served = False
        self._thread = threading.Thread(target=self._run, name="aioq-lease", daemon=True)

    async def run(self) -> None:
        """Renew the leases until `stop`, or until cancelled."""
        self._thread.start()
        try:
            await self._done.wait()
        finally:
            self._stopping = True
            self._wake.set()
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        """Renew no more, and let the thread end. The leases expire, or end when the worker deregisters."""
        self._stopping = True
        self._wake.set()
        await self._done.wait()

    def add(self, membership: Membership) -> None:
        """Renew the lease of one more queue, from now on."""
        self._memberships = [*self._memberships, membership]  # a new list: the thread may be reading this one
        self.renew_now()

    async def remove(self, membership: Membership) -> None:
        """Do not renew this lease any more; returns when all answers of its queue are sent."""
        sent = asyncio.Event()
        self._leaving.append((membership.queue, sent))
        self.renew_one(membership.queue)
        await sent.wait()
        self._memberships = [each for each in self._memberships if each is not membership]

    @property
    def reconnects(self) -> int:
        """How often the connection had to be made again."""
        return self._lease_client.reconnects

    def rejection(self, queue: str) -> str:
        """Why the server refuses to renew a queue's lease; empty if it does not. May be called from any thread."""
        return self._rejections.get(queue, "")

    def renew_now(self) -> None:
        """Renew at once; after a lost lease, register the worker again at once."""
        self._is_round_due = True
        self._wake.set()

    def renew_one(self, queue: str) -> None:
        """Renew the lease of one queue at once, because its reply has something; from any thread."""
        self._single.append(queue)
        self._wake.set()

    def answer(self, queue: str, request: str, answer: bytes) -> None:
        """Send the answer to a request with a renewal, at once; from any thread."""
        self._answers.append((queue, request, answer))
        self.renew_one(queue)

    def _run(self) -> None:
        try:
            next_round, is_due = 0.0, True
            while not self._stopping:
                self._wake.clear()
                single = {self._single.popleft() for _ in range(len(self._single))}
                is_due, self._is_round_due = is_due or self._is_round_due, False
                if is_due:
                    memberships = self._memberships
                    self._round += 1
                    next_round = time.monotonic() + self._interval
                else:  # before the next round is due, only those that have failed, and those that are asked for
                    wanted = single | self._troubled.keys()
                    memberships = [each for each in self._memberships if each.queue in wanted]
                pauses = self._renew_all(memberships)
                self._let_leave()
                until_round = max(next_round - time.monotonic(), 0.05)
                woken = self._wake.wait(min([until_round, *pauses]))
                is_due = time.monotonic() >= next_round or (not woken and until_round <= min(pauses, default=inf))
            self._send_last_answers()
        except BaseException as error:
            self._error = error
        finally:
            self._lease_client.close()
            self._call_on_loop(self._done.set)

    def _send_last_answers(self) -> None:
        """The worker stops, and has answered something meanwhile."""
        self._gather_answers()
        left = [each for each in self._memberships if each.queue in self._unsent and each.joined]
        if left:
            self._renew_all(left)

    def _let_leave(self) -> None:
        """Tell those that wait for it that the answers of their queue are sent."""
        for _ in range(len(self._leaving)):
            queue, sent = self._leaving.popleft()
            self._gather_answers()
            if queue in self._unsent:
                self._leaving.append((queue, sent))
                self.renew_one(queue)
            else:
                self._call_on_loop(sent.set)

    def _gather_answers(self) -> None:
        for _ in range(len(self._answers)):
            queue, request, answer = self._answers.popleft()
            self._unsent.setdefault(queue, []).append((request, answer))

    def _renew_all(self, memberships: Sequence[Membership]) -> list[float]:
        """Renew leases, and join the queues not joined; returns in how many seconds to retry each that failed."""
        if not memberships:
            return []
        self._gather_answers()
        requests = [self._request(number, each) for number, each in enumerate(memberships)]
        results = self._lease_client.renew_all(requests)
        self._served = self._served or any(isinstance(result, Renewal) for result in results)
        pauses: list[float] = []
        for membership, request, result in zip(memberships, requests, results, strict=True):
            if isinstance(result, Renewal):
                self._renewed(membership, request, result)
            elif isinstance(result, ServerRejectedError) and not self._served:
                raise result  # waiting does not help: the worker ends, with this error
            else:
                self._not_sent(request)
                pauses.append(self._note_trouble(membership.queue, result))
        return pauses

    def _request(self, number: int, membership: Membership) -> LeaseRequest:
        worker = membership.worker  # first: the event loop may give it a new id, with which it has not joined
        queue = membership.queue
        if not membership.joined:
            return LeaseRequest(queue, worker, 0, "join", self._about(queue, "join"))
        fetched_ms = round(self._fetched_ago(queue) * 1000)
        # The queues take turns, so that the sweeps of many do not keep the server from others all at once.
        sweep = (self._round + number) % SWEEP_EVERY == 0
        mode: RenewalMode = "sweep" if sweep else ""
        answers = self._unsent.pop(queue, ())
        return LeaseRequest(queue, worker, fetched_ms, mode, self._about(queue, mode), answers)

    def _about(self, queue: str, mode: RenewalMode) -> bytes:
        return b"" if self._announcer is None else self._announcer.due(queue, mode)

    def _not_sent(self, request: LeaseRequest) -> None:
        """Send again what went with a renewal that has failed."""
        if request.about and self._announcer is not None:
            self._announcer.failed(request.queue)
        if request.answers:
            self._unsent.setdefault(request.queue, []).extend(request.answers)

    def _renewed(self, membership: Membership, sent: LeaseRequest, renewal: Renewal) -> None:
        healed = self._note_success(membership.queue)
        if renewal.lost:
            self._call_on_loop(self._on_lost, membership, sent.worker)
        else:
            if sent.mode == "join":
                self._call_on_loop(membership.confirm, sent.worker)
            self._call_on_loop(self._on_renewal, membership, renewal, healed or renewal.outage)
            for request in renewal.asked:
                self._on_asked(membership.queue, request)

    def _note_trouble(self, queue: str, error: ServerError) -> float:
        """Log an error, once; return the seconds until the next try."""
        if isinstance(error, ServerRejectedError):
            # A password was changed or a permission taken away: a person can correct that.
            self._rejections[queue] = str(error)
        if queue not in self._troubled:
            # One warning for all queues of the server.
            level = logging.DEBUG if self._troubled else logging.WARNING
            log.log(level, "queue %s: %s; trying again until it is back", queue, error)
            self._troubled[queue] = Backoff()
        return self._troubled[queue].next()

    def _note_success(self, queue: str) -> bool:
        """Note a successful renewal; return whether the one before had failed."""
        self._rejections.pop(queue, None)
        if self._troubled.pop(queue, None) is None:
            return False
        level = logging.DEBUG if self._troubled else logging.WARNING
        log.log(level, "queue %s: the server is back", queue)
        return True

    def _call_on_loop(self, callback: Callable[..., object], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)
