"""What becomes of a node, by what has become of those before it."""

import pytest

from aioq.flows.graph import Kind, Node
from aioq.flows.rules import Before, Verdict, has_ended, judge, judge_children, unended

RUN, CASCADE, SKIP = Verdict.RUN, Verdict.CASCADE, Verdict.SKIP


def before(letters: str) -> list[Before]:
    """Nodes before another one: an upper-case letter is ignored if it failed, one after a dot is an input."""
    found: list[Before] = []
    watched = True
    for letter in letters:
        if letter == ".":
            watched = False
        else:
            found.append(Before(ord(letter.lower()), letter.isupper(), watched))
    return found


CASES = [
    (Node(), "", RUN),
    (Node(), "ss", RUN),
    (Node(), "sf", CASCADE),
    (Node(), "sc", CASCADE),
    (Node(), "sx", CASCADE),
    (Node(), "sF", RUN),
    (Node(), "sX", RUN),
    (Node(), "sk", SKIP),
    (Node(), "kf", CASCADE),
    (Node(), "kF", SKIP),
    (Node(require=1), "fs", RUN),
    (Node(require=1), "ff", CASCADE),
    (Node(require=2), "fsk", CASCADE),
    (Node(require=2), "sk", SKIP),
    (Node(require=5), "ss", RUN),
    (Node(kind=Kind.JOIN), "", RUN),
    (Node(kind=Kind.JOIN), "sk", RUN),
    (Node(kind=Kind.JOIN), "kk", SKIP),
    (Node(kind=Kind.JOIN), "fk", CASCADE),
    (Node(kind=Kind.JOIN, require=1), "fs", RUN),
    (Node(kind=Kind.MAP, require=1), "fs", CASCADE),
    (Node(kind=Kind.MAP), "sF", RUN),
    (Node(always=True), "fcxk", RUN),
    (Node(when_failed=True), "s", SKIP),
    (Node(when_failed=True), "sf", RUN),
    (Node(when_failed=True), "F", RUN),
    (Node(when_failed=True), "k", SKIP),
    (Node(when_failed=True), "f.s", RUN),
    (Node(when_failed=True), "f.f", SKIP),
    (Node(when_failed=True), "f.F", RUN),
    (Node(when_failed=True), "s.f", SKIP),
]


def test_what_becomes_of_a_node() -> None:
    wrong = [
        (node, letters)
        for node, letters, verdict in CASES
        if judge(node, before(letters), stopped=False) != verdict
    ]
    assert wrong == []


def test_in_a_cancelled_flow_only_what_runs_in_any_case_or_after_failures_goes_on() -> None:
    for node, letters, verdict in CASES:
        expected = verdict if node.always or node.when_failed else CASCADE
        assert judge(node, before(letters), stopped=True) == expected, (node, letters)


@pytest.mark.parametrize(
    ("require", "ignored", "states", "good"),
    [
        (0, False, b"", True),
        (3, False, b"", True),
        (0, False, b"ss", True),
        (0, False, b"sf", False),
        (1, False, b"sf", True),
        (2, False, b"sf", False),
        (0, True, b"sfcx", True),
        (9, False, b"ss", True),
    ],
)
def test_the_children_of_a_map(require: int, ignored: bool, states: bytes, good: bool) -> None:
    assert judge_children(require, ignored, states) is good


def test_which_states_are_ends() -> None:
    assert has_ended(b"sfcxk")
    assert not any(has_ended(bytes([letter])) for letter in b".>gm")
    assert unended(b".>gmsfcxk") == 4
