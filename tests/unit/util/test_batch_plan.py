"""`aioq.util.batcher.BatchPlan`: events in, decisions out."""

import pytest

from aioq.util.batcher import NEVER, BatchPlan

EAGER = 64

Events = list[int | None]
"""Batches that leave, by their items, and batches that are answered: None."""

TABLE: list[tuple[Events, bool, tuple[int, int]]] = [
    # what has happened, whether lone items are prompt, and with how much a batch leaves at once, and soon
    ([], True, (EAGER, 1)),
    ([1], True, (EAGER, 1)),  # one is in flight, so the next waits for its turn
    ([1, None], True, (1, 1)),
    ([1, None], False, (EAGER, 1)),
    ([2, None], True, (EAGER, 1)),  # more are likely to follow in this turn
    ([2, None, 1, None], True, (1, 1)),
    ([1, 1], True, (NEVER, NEVER)),
    ([1, 5, None], True, (EAGER, 1)),
    ([5, 1, None], True, (EAGER, 1)),
    ([5, 1, None, None], True, (1, 1)),
]


@pytest.mark.parametrize(("events", "prompt", "decided"), TABLE)
def test_with_how_much_a_batch_leaves(events: Events, prompt: bool, decided: tuple[int, int]) -> None:
    plan = BatchPlan(in_flight=2, eager=EAGER, prompt=prompt)
    for items in events:
        if items is None:
            plan.completed()
        else:
            plan.left(items)
    assert (plan.at_once, plan.soon) == decided
