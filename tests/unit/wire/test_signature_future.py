"""The same with every annotation a string, as `from __future__ import annotations` leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pytest

from aioq.wire.messages import ENCODER
from aioq.wire.signature import BadArgumentsError, Signature


def bill(when: date, *, items: list[Item], tax: float = 0.2) -> Item:
    return items[0]


@dataclass
class Item:
    name: str
    next: Item | None = None


def test_annotations_that_are_strings_are_resolved_with_names_defined_later():
    subject = Signature("task 't'", bill)
    items = [Item("a", Item("b"))]
    args, kwargs = subject.decode(ENCODER.encode([date(2026, 1, 2)]), ENCODER.encode({"items": items}))
    assert (args, kwargs) == ((date(2026, 1, 2),), {"items": items})
    assert subject.returns.decode(ENCODER.encode(items[0])) == items[0]


def test_and_errors_have_their_path():
    subject = Signature("task 't'", bill)
    with pytest.raises(BadArgumentsError, match=r"^\$\.items\[0\]\.next\.name: expected str, got int$"):
        subject.decode(
            ENCODER.encode([date(2026, 1, 2)]), ENCODER.encode({"items": [{"name": "a", "next": {"name": 1}}]})
        )
