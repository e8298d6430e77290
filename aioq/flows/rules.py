"""What becomes of a node once the nodes before it have ended: plain decisions.

The state of a node is one byte. A node that has `GRAFTED` has succeeded itself, and waits for what it has added to
the flow; `EXPANDED` is a map that waits for its children.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aioq.flows.graph import Kind, Node

WAITS, RUNS, GRAFTED, EXPANDED = b".>gm"
SUCCEEDED, FAILED, CANCELLED, CASCADED, SKIPPED = b"sfcxk"

UNENDED = b".>gm"
"""The states of nodes that have not ended."""

ENDED = frozenset(b"sfcxk")
BAD = frozenset(b"fcx")
"""The states of nodes that have ended and not succeeded: failed, cancelled, cancelled because of others."""


class Verdict(enum.Enum):
    """What becomes of a node: it runs, it is cancelled because of others, or it is not needed."""

    RUN = enum.auto()
    CASCADE = enum.auto()
    SKIP = enum.auto()


@dataclass(frozen=True, slots=True)
class Before:
    """A node before another one, once it has ended.

    Attributes:
        state: its state.
        ignored: what depends on it goes on if it has not succeeded.
        is_watched: whether the other one comes after it, and does not only use its result.
    """

    state: int
    ignored: bool = False
    is_watched: bool = True

    @property
    def is_good(self) -> bool:
        """Whether it counts for `require`."""
        return self.state == SUCCEEDED or (self.ignored and self.state in BAD)


def judge(node: Node, before: Sequence[Before], *, stopped: bool) -> Verdict:
    """What becomes of a node all of whose dependencies have ended; `stopped` if the flow was cancelled.

    A node with `always` or `when_failed` goes its way in a flow that was cancelled, too.
    """
    if node.always:
        return Verdict.RUN
    if node.when_failed:
        watched = any(each.is_watched and each.state in BAD for each in before)
        inputs = all(each.is_watched or each.is_good for each in before)
        return Verdict.RUN if watched and inputs else Verdict.SKIP
    if stopped:
        return Verdict.CASCADE
    good = sum(each.is_good for each in before)
    if good >= _needed(node, before):
        return Verdict.RUN
    return Verdict.CASCADE if any(_is_bad(each) for each in before) else Verdict.SKIP


def _needed(node: Node, before: Sequence[Before]) -> int:
    """How many of the nodes before it must be good. A join leaves out those that were not needed."""
    if node.kind is Kind.MAP:
        return len(before)
    if node.require:
        return min(node.require, len(before))
    if node.kind is Kind.JOIN:
        skipped = sum(each.state == SKIPPED for each in before)
        return len(before) - skipped if skipped < len(before) else len(before)
    return len(before)


def _is_bad(each: Before) -> bool:
    return each.state in BAD and not each.ignored


def judge_children(require: int, ignored: bool, states: bytes) -> bool:
    """Whether enough children of a map are good, all of which have ended."""
    good = states.count(b"s") + (sum(states.count(letter) for letter in (b"f", b"c", b"x")) if ignored else 0)
    return good >= (min(require, len(states)) if require else len(states))


def has_ended(states: bytes | bytearray) -> bool:
    """Whether all these nodes have ended."""
    return not any(letter in states for letter in UNENDED)


def unended(states: bytes | bytearray) -> int:
    """How many of these nodes have not ended."""
    return sum(map(states.count, _LETTERS))


_LETTERS: Iterable[bytes] = tuple(bytes([letter]) for letter in UNENDED)
