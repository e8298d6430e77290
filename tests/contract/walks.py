"""Random walks of a store, on every kind of store: what the models share that are held against one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, run_state_machine_as_test

from aioq.store.contract import Limits, Store
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore
from aioq.util.clock import ManualClock
from tests.databases import Database

T = TypeVar("T")

Making = Callable[[], tuple[Store, Callable[[], None]]]
"""Makes a store; with what is to be done afterwards."""


class Walk(RuleBasedStateMachine):
    """A machine that drives one store from a synchronous walk.

    Attributes:
        store: the store.
        lease_client: its lease client.
    """

    has_begun = False

    @staticmethod
    def make() -> tuple[Store, Callable[[], None]]:
        """The store, and what is to be done afterwards."""
        raise NotImplementedError

    async def opened(self) -> None:
        """Called on the event loop, once the store is there."""

    def begun(self) -> None:
        """Called before the first step."""

    def ended(self) -> None:
        """Called after the last step: checks what must hold in the end."""

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()  # `Runner.run` handles SIGINT anew each time: a third of all time
        self.loop.run_until_complete(self._open())
        self.begun()
        self.has_begun = True

    async def _open(self) -> None:
        self.store, self.clean = self.make()
        self.lease_client = self.store.lease_client()
        await self.opened()

    def teardown(self) -> None:
        if not self.has_begun:
            return
        try:
            self.ended()
        finally:
            self.loop.run_until_complete(self.store.close())
            self.lease_client.close()
            self.clean()
            self.runner.close()

    def run(self, call: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        async def wait() -> T:
            return await call(*args, **kwargs)

        return self.loop.run_until_complete(wait())


def one_of(options: Sequence[T], pick: int) -> T:
    return options[pick % len(options)]


def in_memory(limits: Limits, clock: Callable[[], ManualClock] = ManualClock) -> Making:
    return lambda: (MemoryStore("test", clock=clock(), limits=limits), lambda: None)


def on(database: Database, app: str, limits: Limits, *, leaves: str = "") -> Making:
    """A store on a server; in the end there must be no key that looks like one of `leaves`."""

    def make() -> tuple[Store, Callable[[], None]]:
        client = database.client()

        def clean() -> None:
            left = client.keys(leaves) if leaves else []
            client.flushdb()
            client.close()
            assert left == []

        return RedisStore(app, database.url, shown_url=database.url, limits=limits), clean

    return make


def drive(
    kind: type[RuleBasedStateMachine], make: Callable[[], Any], walks: int, steps: int, *, alike: bool
) -> None:
    """Walk.

    Args:
        kind: the machine.
        make: its method `make`.
        walks: how many walks.
        steps: how many steps each has at the most.
        alike: whether the walks are the same each time.
    """
    machine: Any = type("Machine", (kind,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            phases=(Phase.explicit, Phase.generate),  # without shrinking, which takes minutes
            max_examples=walks,
            stateful_step_count=steps,
            derandomize=alike,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
