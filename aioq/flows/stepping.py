"""Takes steps in flows: reads what has happened, lets `plan` decide, and writes what follows.

    take  ──►  plan, and what it needs: parts of the definition, outcomes  ──►  apply  ──►  relay

Workers do that for the queues that they serve, and a client does it for a flow that it has begun, so that its
first jobs need no worker that looks for them. Any number of processes may do so at once.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aioq.errors import AioqError, Failure, NewerVersionError, ServerError, ServerRejectedError, WireError
from aioq.flows.ends import FLOW_FAILED
from aioq.flows.graph import decode_head, decode_part
from aioq.flows.layout import Layout, NeedsError
from aioq.flows.plan import plan
from aioq.jobs.job import JobState
from aioq.store.contract import Store
from aioq.store.flows import MOST_CHANGES, MOST_TAKEN, Applied, FlowStep, FlowWork
from aioq.store.outcomes import LATER, WaitReply
from aioq.store.relay import relay
from aioq.util.log import logger
from aioq.wire.messages import encode_failure

log = logger("aioq.flows")

MOST_LAYOUTS, MOST_PARTS = 1_000, 1_000
"""Of how many flows a process keeps the nodes, and how many parts (of up to 500 nodes) it keeps in all."""

PARTS_AT_ONCE, OUTCOMES_AT_ONCE = 20, 500
"""How many parts, and how many outcomes, are asked for in one call."""

MOST_ROUNDS = 20
"""After how many rounds a client leaves a flow to the workers."""

MOST_LOGGED = 1_000
"""Of how many flows a process remembers that it has logged why they cannot go on."""


@dataclass(frozen=True, slots=True)
class Round:
    """What was done in one round.

    Attributes:
        taken: how many flows were taken.
        more: the flows in which there is more work: they are to be taken again at once.
        noted: those in which the step has only noted ends.
        targets: the queues to which jobs are to be relayed.
    """

    taken: int
    more: Sequence[str] = ()
    noted: Sequence[str] = ()
    targets: Sequence[str] = ()


class Stepper:
    """Takes steps in the flows of one home.

    Args:
        store: where they are.
        home: the queue.
    """

    def __init__(self, store: Store, home: str) -> None:
        self._store = store
        self._home = home
        self._layouts: OrderedDict[str, Layout] = OrderedDict()
        self._parts = 0
        self._logged: set[str] = set()

    async def round(self, flow_ids: Sequence[str] = (), count: int = MOST_TAKEN) -> Round:
        """Take one step in each of several flows.

        Args:
            flow_ids: these; if there are none, those in which a step is due.
            count: how many at most.

        Raises:
            ServerError: the server cannot be reached, or refuses a call. What was taken is due again some seconds
                later.

        Cancellation: between two calls; what was taken is due again some seconds later.
        """
        works = await self._store.flows.take(self._home, max(count, len(flow_ids)), flow_ids)
        steps = [step for work in works if (step := await self._decided(work)) is not None]
        done = await self._applied(steps)
        targets = {job.queue: None for step, each in done if each for job in step.jobs if job.queue != self._home}
        more = [step.flow_id for step, each in done if each is not Applied.DONE]
        noted = [step.flow_id for step, each in done if each and _only_notes(step)]
        return Round(len(works), more, noted, [*targets])

    # -- deciding -------------------------------------------------------------------------------------------------

    async def _decided(self, work: FlowWork) -> FlowStep | None:
        """The next step; None for a flow that this process cannot read. Others are not held up by it."""
        try:
            return await self._plan(work)
        except NewerVersionError as error:
            self._log_once(work.flow_id, "flow %s is left to a newer worker: %s", error)
        except WireError as error:
            self._log_once(work.flow_id, "flow %s cannot go on, and fails: %s", error)
            return _broken(work, error)
        except ServerError:
            raise
        except Exception:
            if work.flow_id not in self._logged:
                log.exception("flow %s cannot go on here", work.flow_id)
            self._remember(work.flow_id)
        return None

    def _log_once(self, flow_id: str, message: str, error: AioqError) -> None:
        (log.debug if flow_id in self._logged else log.warning)(message, flow_id, error)
        self._remember(flow_id)

    def _remember(self, flow_id: str) -> None:
        if len(self._logged) >= MOST_LOGGED:
            self._logged.clear()
        self._logged.add(flow_id)

    async def _plan(self, work: FlowWork) -> FlowStep:
        layout = self._layouts.get(work.flow_id)
        if layout is None:
            layout = Layout(decode_head(work.head))
            self._drop_layouts()
            self._layouts[work.flow_id] = layout
        self._layouts.move_to_end(work.flow_id)
        outcomes: dict[str, WaitReply] = {}
        while True:
            try:
                step = plan(layout, work, self._home, outcomes)
            except NeedsError as needs:
                await self._read(work.flow_id, layout, needs, outcomes)
                continue
            if step.over:
                self._parts -= len(layout.parts)
                del self._layouts[work.flow_id]
            return step

    async def _read(self, flow_id: str, layout: Layout, needs: NeedsError, outcomes: dict[str, WaitReply]) -> None:
        numbers = sorted(needs.parts)
        for start in range(0, len(numbers), PARTS_AT_ONCE):
            asked = numbers[start : start + PARTS_AT_ONCE]
            parts = await self._store.flows.parts(self._home, flow_id, asked)
            for number, part in zip(asked, parts, strict=True):
                if part is None:
                    raise WireError(f"part {number} of its definition has vanished from the server")
                layout.add(number, decode_part(part))
                self._parts += 1
        if needs.outcomes:
            outcomes |= await outcomes_of(self._store, self._home, sorted(needs.outcomes))

    def _drop_layouts(self) -> None:
        """Keep the nodes of the flows that were last looked at."""
        while self._layouts and (len(self._layouts) >= MOST_LAYOUTS or self._parts > MOST_PARTS):
            self._parts -= len(self._layouts.popitem(last=False)[1].parts)

    # -- writing --------------------------------------------------------------------------------------------------

    async def _applied(self, steps: Sequence[FlowStep]) -> list[tuple[FlowStep, Applied]]:
        """Apply steps. Returns what has become of each, without those that the server refuses."""
        applied: list[tuple[FlowStep, Applied]] = []
        for group in _groups(steps):
            try:
                done = await self._store.flows.apply(self._home, group)
            except ServerRejectedError:
                if len(group) == 1:
                    raise
                done = [await self._applied_alone(step) for step in group]
            applied += [(step, each) for step, each in zip(group, done, strict=True) if each is not None]
        return applied

    async def _applied_alone(self, step: FlowStep) -> Applied | None:
        """Apply one step; if the server refuses it, that is logged, so that it holds up no other flow."""
        try:
            return (await self._store.flows.apply(self._home, [step]))[0]
        except ServerRejectedError as error:
            self._log_once(step.flow_id, "flow %s: the server refuses a step: %s", error)
            return None


def _only_notes(step: FlowStep) -> bool:
    """Whether a step has done nothing but to note that jobs have ended."""
    return step.taken > 0 and not (step.jobs or step.end or step.further or step.cancel or step.forget)


def _groups(steps: Sequence[FlowStep]) -> list[list[FlowStep]]:
    """Steps that are applied in one call: together they change no more jobs than one may."""
    groups: list[list[FlowStep]] = []
    size = MOST_CHANGES
    for step in steps:
        its = len(step.jobs) + len(step.cancel) + len(step.forget) + len(step.keep)
        if size + its > MOST_CHANGES or not groups:
            groups.append([])
            size = 0
        groups[-1].append(step)
        size += its
    return groups


def _broken(work: FlowWork, error: WireError) -> FlowStep:
    """The step that ends a flow whose definition cannot be read."""
    failure = Failure(FLOW_FAILED, f"the flow cannot go on: {error}")
    return FlowStep(
        flow_id=work.flow_id,
        rev=work.rev,
        nodes=work.nodes,
        memo=work.memo,
        taken=len(work.items),
        end=(JobState.FAILED, encode_failure("", failure)),
        ttl_ms=BROKEN_TTL_MS,
        over=True,
    )


BROKEN_TTL_MS = 86_400_000
"""For how long a flow is kept that could not go on because its definition cannot be read, in milliseconds."""


async def outcomes_of(store: Store, home: str, job_ids: Sequence[str]) -> dict[str, WaitReply]:
    """The outcomes of nodes' jobs, however many and large they are.

    Raises:
        ServerError: the server cannot be reached, or refuses a call.
    """
    found: dict[str, WaitReply] = {}
    left = list(job_ids)
    while left:
        asked = left[:OUTCOMES_AT_ONCE]
        replies = await store.flows.outcomes(home, asked)
        later = [job_id for job_id, reply in zip(asked, replies, strict=True) if reply is LATER]
        found |= {job_id: reply for job_id, reply in zip(asked, replies, strict=True) if reply is not LATER}
        left = [*later, *left[OUTCOMES_AT_ONCE:]]
    return found


async def advance(store: Store, home: str, flow_id: str, *, is_enough: Callable[[], bool] = lambda: False) -> None:
    """Take steps in one flow until there is nothing more to do in it now, and relay what goes to other queues.

    It is no error if the server cannot be reached: the workers of the home take the steps then.

    Args:
        store: where the flow is.
        home: its home.
        flow_id: the flow.
        is_enough: called after each step; whether to stop.
    """
    stepper = Stepper(store, home)
    try:
        for _ in range(MOST_ROUNDS):
            done = await stepper.round([flow_id])
            await relay_all(store, home, done.targets)
            if not done.more or is_enough():
                return
    except ServerError as error:
        log.debug("flow %s: its workers go on: %s", flow_id, error)


async def relay_all(store: Store, home: str, targets: Sequence[str]) -> None:
    """Relay what goes to other queues; where one cannot be reached, the workers of the home do it later."""

    async def one(target: str) -> None:
        try:
            await relay(store.outbox, home, target)
        except ServerError as error:
            log.debug("queue %s: could not relay to queue %s: %s", home, target, error)

    if targets:
        await asyncio.gather(*map(one, targets))
