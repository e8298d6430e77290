"""Reads a flow as it is at one moment, without taking it."""

from dataclasses import dataclass

from aioq.flows.graph import decode_head, decode_part
from aioq.flows.layout import Layout, NeedsError
from aioq.flows.memo import Memo, decode_memo
from aioq.results.waiters import not_found
from aioq.store.flows import Flows, FlowWork


@dataclass(frozen=True, slots=True)
class Seen:
    """A flow as it was read.

    Attributes:
        work: what the store knows.
        layout: its nodes.
        memo: what was noted of it.
    """

    work: FlowWork
    layout: Layout
    memo: Memo


async def read_flow(flows: Flows, home: str, flow_id: str, layout: Layout | None = None) -> Seen:
    """Read a flow.

    Args:
        flows: of the store.
        home: the queue in which it is.
        flow_id: the flow.
        layout: its nodes, as far as they were read before.

    Raises:
        JobNotFoundError: there is no such flow (any more).
        NewerVersionError: it was written by a newer aioq.
    """
    work = await flows.read(home, flow_id)
    if work is None:
        raise not_found(flow_id, [home])
    memo = decode_memo(work.memo)
    layout = layout or Layout(decode_head(work.head))
    while True:
        try:
            layout.bind(memo)
        except NeedsError as needs:
            numbers = sorted(needs.parts)
        else:
            return Seen(work, layout, memo)
        for number, part in zip(numbers, await flows.parts(home, flow_id, numbers), strict=True):
            if part is None:
                raise not_found(flow_id, [home])
            layout.add(number, decode_part(part))
