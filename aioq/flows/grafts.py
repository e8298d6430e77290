"""What a running job adds to its flow: `current_flow().add(...)`.

Nothing of it is sent before the attempt has succeeded: so an attempt that fails, or whose worker dies, has added
nothing. Whatever waits for the job waits for what it has added, too.
"""

from typing import Any, NoReturn

from aioq.errors import ConfigError
from aioq.flows.building import Plan
from aioq.flows.flow import Flow
from aioq.flows.ids import flow_of
from aioq.flows.sending import FlowSender
from aioq.jobs.context import JobContext, NoJobError, current_job, worker_of
from aioq.jobs.job import queue_of
from aioq.public import public
from aioq.store.contract import Store
from aioq.util.randomness import RANDOM

FIRST_OF_GRAFTS = 1 << 32
"""The least number of a part that was not written with the flow."""


@public
class CurrentFlow(Flow):
    """The flow of the job that is running here, as `current_flow()` returns it.

    What is added with `add`, `map` and `starmap` is run once the job has succeeded, and whatever waits for the job
    waits for it too. If the attempt fails, nothing was added.

    Attributes:
        id: the flow's id.
        name: the same.
    """

    def __init__(self, flow_id: str, home: str, index: int) -> None:
        self.id = self.name = flow_id
        self._plan = Plan(flow_id, None)
        self._home = home
        self._index = index

    def __repr__(self) -> str:
        return f"<CurrentFlow {self.id}>"

    async def send(self, *_: Any) -> NoReturn:
        """What was added is sent with the end of the job.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("current_flow(): what a job adds is sent when it has succeeded; no send() is needed")

    async def offer(self, store: Store, job: JobContext) -> str | None:
        """Store what was added; the flow takes it if the job succeeds with an outcome that names what is returned.

        Returns:
            The number of the first part; None if nothing was added.
        """
        plan = self._plan
        if not plan.nodes or not isinstance(plan.sender, FlowSender):
            return None
        first = RANDOM.randrange(FIRST_OF_GRAFTS, 1 << 52)  # each attempt has its own
        sending = plan.sender.sending(plan, self._home, job, self.id)
        nodes = await sending.static()

        async def write(home: str, flow_id: str, number: int, parts: Any) -> None:
            await store.flows.write(home, flow_id, first + number, parts)

        _, states = await sending.children(nodes, write)
        await store.flows.request(self._home, self.id, f"graft {self._index} {first} {len(states)}")
        return str(first)


def current_flow() -> CurrentFlow:
    """The flow whose job is running here: `current_flow().add(resize.call(url))` adds a node to it.

    Raises:
        NoJobError: no job is running here; or it is not one of a flow; or it runs in a process pool, from where
            nothing can be added.
    """
    job = current_job()
    if job._graft is None:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the one place that sets it
        found = flow_of(job.id)
        home = None if found is None else queue_of(found[0]) or "default"
        if found is None or home is None:
            raise NoJobError(
                f"job {job.id} is not one of a flow; current_flow() works in jobs that a flow has sent"
            )
        if not worker_of(job):
            raise NoJobError(f"job {job.id} runs in a process pool, from where nothing can be added to its flow")
        job._graft = CurrentFlow(found[0], home, found[1])  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
    assert isinstance(job._graft, CurrentFlow)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above
    return job._graft  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as above


async def offer(job: JobContext, store: Store) -> str | None:
    """Store what a job has added to its flow, before it succeeds; see `CurrentFlow.offer`."""
    graft = job._graft  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - set above
    return await graft.offer(store, job) if isinstance(graft, CurrentFlow) else None
