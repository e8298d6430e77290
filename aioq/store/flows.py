"""The verbs for flows: graphs of jobs that depend on each other. Part of the store contract.

A flow is stored whole in one queue, its *home*. The store knows no graphs: a definition is opaque bytes. What
happens in a flow is decided by whoever takes a step in it, a worker or a client:

    take  ──►  decide, by pure functions  ──►  apply

`take` tells what has happened since, `apply` writes what follows from it, all or nothing. A flow has a revision
number, which each applied step raises: a step that was decided for an earlier one is refused. So any number of
processes may take steps in one flow, also if one of them dies.

Each node that is run is a job, whose record is at home. The job itself may be run by another queue: then it goes
there by the outbox (`aioq.store.outbox`), in the same call that creates it. Its end comes back in the same way. An
end at home adds the node to the flow's list of work, and nothing else: so it costs the same in a large flow.

The flow itself has a record too, under its id: it is in the state `waiting` until the flow ends, and then has the
flow's outcome. So whoever waits for a job can wait for a flow.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from aioq.errors import Failure, ServerRejectedError
from aioq.jobs.job import JobState
from aioq.store.extra import Extra
from aioq.store.new_job import NewJob
from aioq.store.outcomes import WaitReply
from aioq.wire.messages import encode_failure

HOLD_MS = 5_000
"""For how long after a `take` others leave a flow to the one that has taken it, in milliseconds."""

DEFINITION_KEPT_MS = 3_600_000
"""For how long the parts of a flow are kept if nobody begins it, in milliseconds."""

MOST_CHANGES = 500
"""The most jobs that one step may create, cancel, keep and forget together, and the most items that are taken."""

MOST_TAKEN = 20
"""How many flows `take` brings if nobody says otherwise."""

MOST_OUTCOME_BYTES = 65_536
"""With how many bytes of outcomes one flow's `FlowWork.ended` may come, in all."""

BEGIN = "begin"
"""The first item of work of each flow."""

WAITS_TO_BEGIN = b"."
"""The state of each node of a flow that has begun, and in which no step was taken: see `FlowWork.states`."""


class FlowStart(msgspec.Struct, frozen=True, gc=False):
    """How a flow begins.

    Attributes:
        head: what its definition says of the flow as a whole; opaque.
        nodes: how many nodes it has.
        envelope: the call that its own record shows.
        parts: how many parts were written.
        extra: further data of its own record, such as tags; `flow` is set by the store.
        waiter: the channel on which this process will wait for the outcome; "" for none.
        states: the states of its nodes; empty if all of them wait.
    """

    head: bytes
    nodes: int
    envelope: bytes
    parts: int
    extra: Extra | None = None
    waiter: str = ""
    states: bytes = b""


class NodeEnd(msgspec.Struct, frozen=True, gc=False):
    """What the record of a node's job says. The node may not have ended, or its record may have vanished.

    Attributes:
        index: the node.
        state: the job's state; None if there is no record.
        outcome: its outcome, if it has ended; None too if it is too large to come here, see `MOST_OUTCOME_BYTES`:
            `Flows.outcomes` has it.
        job_id: the job of which this is said: a node that is run anew has another one.
    """

    index: int
    state: JobState | None
    outcome: bytes | None
    job_id: str = ""


class FlowWork(msgspec.Struct, frozen=True, gc=False):
    """What is to be done in one flow.

    Attributes:
        flow_id: the flow.
        rev: its revision, which `FlowStep.rev` must repeat.
        head, memo: what its definition says of it, and what the last step has noted; opaque.
        nodes: how many nodes it has by now.
        states: the state of each node, one byte for each; opaque.
        parts: how many parts its definition has by now.
        items: the first items of its work, at most `MOST_CHANGES`: nodes whose jobs may have ended (`node_of`), or
            words for whoever takes the step. The same item may come twice. An item for the index `OWN_RECORD` says
            that the flow's own record has ended in another way than by a step: cancelled as any job can be.
        ended: for each item that is of a node, what the record of its job says; in their order.
        now_ms: the store's time, in milliseconds since the Unix epoch.
        state: that of the flow's own record; None if that has vanished.
        outcome: the outcome of the flow's own record, if it has ended.
        over: the last step has said that everything is done.
        further: how many items there are after these.
    """

    flow_id: str
    rev: int
    head: bytes
    memo: bytes
    nodes: int
    states: bytes
    parts: int
    items: Sequence[str]
    ended: Sequence[NodeEnd]
    now_ms: int
    state: JobState | None = None
    outcome: bytes | None = None
    over: bool = False
    further: int = 0


class NodeJob(msgspec.Struct, frozen=True, gc=False):
    """A job of a node that is to be released.

    Attributes:
        queue: the queue, or shard, that runs it.
        job: the job; its `extra.flow` says of which node it is.
    """

    queue: str
    job: NewJob


class FlowStep(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One step in a flow, for `apply`. It creates, cancels, keeps and forgets at most `MOST_CHANGES` jobs in all.

    What was taken must be applied even if it changes nothing, because that says when to look at the flow again.

    Attributes:
        flow_id: the flow.
        rev: the revision that was taken.
        taken: how many items of the head of its work are done.
        further: items to add at the end.
        states: states to write, as (index of the first node, a byte for each); the flow may grow by it.
        nodes: how many nodes it has after this.
        memo: what the next step is to know.
        parts: parts to add to the definition, by number.
        jobs: the jobs to create. One whose unique key another job holds, or that its queue refuses, fails.
        cancel: ids of nodes' jobs to cancel, wherever they are.
        cancel_outcome: the outcome with which they are cancelled.
        end: the state and the outcome with which the flow's own record ends, if it has not ended.
        look_ms: when to look at the flow even if nothing happens, in milliseconds since the Unix epoch; None for
            not at all.
        forget: ids of nodes' jobs whose records are kept for `ttl_ms` only from now on.
        keep: ids of nodes' jobs whose records are kept until `forget` again: the flow is run again.
        ttl_ms: for how long what is kept by `forget`, `over`, `end` and `cancel` is kept, in milliseconds.
        over: everything is done. The flow and its own record are kept for `ttl_ms`, and no step follows but one
            that says this too, where somebody has added an item since, or one that opens it again.
        reopen: the flow's own record, which has ended, waits again; and a flow that was over is not any more.
    """

    flow_id: str
    rev: int
    nodes: int
    memo: bytes
    taken: int = 0
    further: Sequence[str] = ()
    states: Sequence[tuple[int, bytes]] = ()
    parts: Mapping[int, bytes] = msgspec.field(default_factory=dict[int, bytes])
    jobs: Sequence[NodeJob] = ()
    cancel: Sequence[str] = ()
    cancel_outcome: bytes = b""
    end: tuple[JobState, bytes] | None = None
    look_ms: int | None = None
    forget: Sequence[str] = ()
    keep: Sequence[str] = ()
    ttl_ms: int = 0
    over: bool = False
    reopen: bool = False


class Applied(enum.IntEnum):
    """What has become of a step.

    `MORE`: it was applied, and there is more work in its flow. The caller takes it again at once, by its id;
    others find it a moment later.
    """

    REFUSED = 0
    DONE = 1
    MORE = 2


class FlowSummary(msgspec.Struct, frozen=True, gc=False):
    """A flow in a list.

    Attributes:
        flow_id: the flow.
        begun_ms: when it began, in milliseconds since the Unix epoch.
        head, states, nodes: as in `FlowWork`.
        state: that of the flow's own record; None if that has vanished.
    """

    flow_id: str
    begun_ms: int
    head: bytes
    states: bytes
    nodes: int
    state: JobState | None


class Flows(Protocol):
    """The flows of all queues of a store."""

    async def write(self, home: str, flow_id: str, first: int, parts: Sequence[bytes]) -> None:
        """Write parts of a definition, of which `first` is the number of the first one.

        They are kept for `DEFINITION_KEPT_MS` after the last call, or as long as the flow once it has begun.
        """
        ...

    async def begin(self, home: str, flow_id: str, start: FlowStart) -> bool:
        """Begin a flow; False if it had begun already. Its only item of work is `BEGIN`.

        Raises:
            ServerRejectedError: not all of its parts are there (any more).
        """
        ...

    async def take(
        self, home: str, count: int = MOST_TAKEN, flow_ids: Sequence[str] = (), hold_ms: int = HOLD_MS
    ) -> list[FlowWork]:
        """Take flows in which a step is due; others leave them to the caller for `hold_ms`, or until its `apply`.

        With `flow_ids` only these are taken, whether a step is due or not. Those that somebody else holds are left
        out: it does what has been added since. So are flows that are not known, and those that are over, unless
        they have work. With a `hold_ms` of 0 nothing is held.

        What comes is bounded: some flows may be left out, and come by the next call.
        """
        ...

    async def parts(self, home: str, flow_id: str, numbers: Sequence[int]) -> list[bytes | None]:
        """Parts of a definition; None for those that are not there."""
        ...

    async def apply(self, home: str, steps: Sequence[FlowStep]) -> list[Applied]:
        """Apply steps; `REFUSED` for each flow in which another one was applied since, or that is not known.

        A step is applied as a whole or not at all, and gives the flow free for others. Of a step that was not
        applied because the server refused it, jobs may be there already: the same step, or another one that
        releases the same nodes, finds them.

        The targets of jobs that depart are `NodeJob.queue`: the caller relays the outbox for them
        (`aioq.store.relay`), and for those that are cancelled in other queues. Workers do it otherwise.
        """
        ...

    async def outcomes(self, home: str, job_ids: Sequence[str]) -> list[WaitReply]:
        """The outcomes of nodes' jobs; None for one that has not ended, `MISSING` for one without a record.

        From the first outcome on for which the reply has no room, each one that there is is `LATER`: call again.
        """
        ...

    async def request(self, home: str, flow_id: str, item: str) -> bool:
        """Add an item of work; False if there is no such flow.

        If the flow is over, the item is added too: only whoever takes the step knows whether it can be done.
        """
        ...

    async def read(self, home: str, flow_id: str) -> FlowWork | None:
        """Read a flow without taking it; None if there is none. It has items, and no `ended`."""
        ...

    async def listed(self, home: str, count: int, before: tuple[int, str] | None = None) -> list[FlowSummary]:
        """The newest flows of a queue, begun before another one that is given by its `begun_ms` and its id."""
        ...


def node_item(index: int, job_id: str) -> str:
    """The item of work that says: look at this job of a node."""
    return f"{index} {job_id}"


def node_of(item: str) -> tuple[int, str] | None:
    """The node of such an item, and its job; None for an item that is words."""
    index, _, job_id = item.partition(" ")
    return (int(index), job_id) if _INDEX.fullmatch(index) and job_id else None


_INDEX = re.compile(r"-?[0-9]{1,9}")


def missing_parts(flow_id: str, there: int, parts: int) -> ServerRejectedError:
    """The error about a flow of which not all parts are there when it is to begin."""
    return ServerRejectedError(
        f"flow {flow_id} cannot begin: {there} of {parts} parts of its definition are on the server; send it again"
    )


def held_outcome(owner: str) -> bytes:
    """The outcome of a node's job that was not sent, because another job holds its unique key."""
    message = f"it was not sent, because job {owner} holds its unique key"
    return encode_failure("", Failure("aioq.DuplicateJobError", message))


def refused_outcome(queue: str, owner: str = "") -> bytes:
    """The outcome of a node's job that another queue has refused; `owner` is the job that is in its way there."""
    which = f"job {owner} there has its id or its unique key" if owner else "a key of it has another type"
    return encode_failure("", Failure("aioq.DuplicateJobError", f"queue {queue} has refused it: {which}"))


class HasFlows(Protocol):
    """A store that has flows."""

    @property
    def flows(self) -> Flows:
        """The flows."""
        ...
