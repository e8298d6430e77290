"""What a running node adds to its flow.

An attempt writes the parts, asks for them by an item of work (`graft`), and names them in the outcome with which
it succeeds. So an attempt that fails has added nothing.
"""

from collections.abc import Sequence

from aioq.errors import WireError
from aioq.flows.graph import Kind
from aioq.flows.layout import parts_of
from aioq.flows.memo import Graft
from aioq.flows.rules import ENDED, SKIPPED
from aioq.flows.state import FlowState
from aioq.store.outcomes import WaitReply
from aioq.wire.messages import decode_outcome

GRAFT_HEADER = "aioq-graft"
"""The header of an outcome that names the first part of what the attempt has added."""

MOST_GRAFTED = 100_000
"""The most nodes that one attempt adds."""


def accepted(state: FlowState, index: int, outcome: WaitReply, offers: Sequence[tuple[int, int]]) -> Graft | None:
    """Add to a flow what the attempt of a node with which it has succeeded has offered; None if that is nothing.

    Raises:
        NeedsError: its parts have to be read before.
        WireError: it cannot be added.
    """
    if not isinstance(outcome, bytes):
        return None
    named = _named(outcome)
    count = next((count for first, count in offers if str(first) == named), 0)
    if not count:
        return None
    if count > MOST_GRAFTED:
        raise WireError(f"{count} nodes are more than {MOST_GRAFTED}")
    graft = Graft(index, len(state.states), int(named), count)
    layout = state.layout
    state.grow(count)
    state.memo.grafts.append(graft)
    try:
        layout.add_graft(graft)
        _check(state, graft)
    except WireError:
        state.memo.grafts.remove(graft)
        layout.bind(state.memo)
        state.set_range(graft.base, count, SKIPPED)
        raise
    for each in range(graft.base, graft.base + count):
        if layout.node(each).kind is Kind.HOLE:
            state.set(each, SKIPPED)
    return graft


def names_graft(outcome: bytes) -> bool:
    """Whether an outcome names what its attempt has added.

    Raises:
        WireError: it cannot be read.
    """
    return bool(_named(outcome))


def _named(outcome: bytes) -> str:
    return (decode_outcome(outcome).headers or {}).get(GRAFT_HEADER, "")


def _check(state: FlowState, graft: Graft) -> None:
    """What was added may come after nodes that have ended, and after each other without a circle."""
    layout, base = state.layout, graft.base
    assert parts_of(graft)
    for index in range(base, base + graft.count):
        if layout.owner(index) is not None:
            continue
        for each in layout.before(index):
            if each < base and state.states[each] not in ENDED:
                name = layout.name(each)
                raise WireError(f"node {layout.name(index)!r} depends on {name!r}, which has not ended")
