"""`aioq.worker.shares`: which queue may take free slots."""

from collections import Counter, defaultdict
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioq.worker.shares import Share, Shares, share_in_words, shares_of


def shares(used: Mapping[str, int] | None = None, **each: Share) -> Shares:
    return Shares(each, used or {})


@pytest.mark.parametrize(
    ("used", "waiting", "expected"),
    [
        # 3 of 4 slots are for mail where both want some.
        ({"mail": 2, "bulk": 1}, ("mail", "bulk"), {"mail": 1, "bulk": 0}),
        ({"mail": 3}, ("mail", "bulk"), {"mail": 0, "bulk": 1}),
        ({"bulk": 3}, ("mail", "bulk"), {"mail": 1, "bulk": 0}),
        ({}, ("mail", "bulk"), {"mail": 3, "bulk": 1}),
        # A queue that is alone takes all.
        ({"mail": 3}, ("mail",), {"mail": 1}),
        ({"bulk": 3}, ("bulk",), {"bulk": 1}),
        ({}, ("bulk",), {"bulk": 4}),
    ],
)
def test_a_queue_has_a_right_to_its_part_of_all_slots(
    used: dict[str, int], waiting: tuple[str, ...], expected: dict[str, int]
) -> None:
    at = shares(used, mail=Share(weight=3))
    assert at.free_for(waiting, 4 - sum(used.values()), 4) == expected


@pytest.mark.parametrize(
    ("used", "waiting", "expected"),
    [
        ({}, ("mail", "bulk"), {"mail": 2, "bulk": 8}),
        ({"mail": 1, "mail#1": 1}, ("mail", "mail#2", "bulk"), {"mail": 0, "mail#2": 0, "bulk": 8}),
        ({"bulk": 9}, ("mail", "bulk"), {"mail": 1, "bulk": 0}),
        ({"mail": 3}, ("mail",), {"mail": 0}),
    ],
)
def test_a_queue_takes_no_more_than_it_may_and_leaves_the_rest_to_the_others(
    used: dict[str, int], waiting: tuple[str, ...], expected: dict[str, int]
) -> None:
    at = shares(used, mail=Share(most=2))
    assert at.free_for(waiting, 10 - sum(used.values()), 10) == expected
    assert (at.total_for("mail#1", 10), at.total_for("mail", 1), at.total_for("bulk", 10)) == (2, 1, 10)


def test_where_a_part_is_less_than_a_slot_the_queues_take_turns() -> None:
    used: dict[str, int] = {}
    at = Shares({"mail": Share(weight=3)}, used)
    runs: Counter[str] = Counter()
    for _ in range(40):
        free = at.free_for(("mail", "bulk"), 1, 1)
        (queue,) = (queue for queue, number in free.items() if number)
        at.took(queue, 1)
        runs[queue] += 1
    assert runs == {"mail": 30, "bulk": 10}


def test_a_queue_that_wanted_nothing_for_long_has_not_saved_turns() -> None:
    at = Shares({}, {})
    for _ in range(100):
        at.took("mail", 1)
    order = ""
    for _ in range(6):
        (queue,) = (queue for queue, number in at.free_for(("mail", "bulk"), 1, 1).items() if number)
        at.took(queue, 1)
        order += queue[0]
    assert order.count("b") <= 4, order


@given(
    st.integers(1, 9),
    st.dictionaries(
        st.sampled_from("abcd"), st.builds(Share, st.none() | st.integers(1, 5), st.integers(1, 5)), max_size=4
    ),
    st.lists(st.tuples(st.sampled_from(("a", "a#1", "b", "c", "d")), st.booleans()), max_size=60),
)
def test_no_slot_stays_free_that_a_queue_may_use_and_none_is_given_twice(
    total: int, given_shares: dict[str, Share], steps: list[tuple[str, bool]]
) -> None:
    used: defaultdict[str, int] = defaultdict(int)
    at = Shares(given_shares, used)

    def by_queue(queue: str) -> int:
        return sum(count for name, count in used.items() if name[0] == queue[0])

    waiting: set[str] = set()
    for name, wants in steps:
        if not wants:
            used[name] -= used[name] > 0
            continue
        waiting.add(name)
        while (free := total - sum(used.values())) > 0:
            may = at.free_for(waiting, free, total)
            going = [each for each, number in may.items() if number > 0]
            has_room = [each for each in waiting if at.total_for(each, total) > by_queue(each)]
            assert bool(going) == bool(has_room), (may, used)
            if not going:
                break
            assert max(may.values()) <= free
            first = going[0]
            used[first] += may[first]
            at.took(first, may[first])
            waiting.discard(first)
            assert by_queue(first) <= at.total_for(first, total)


@pytest.mark.parametrize(
    ("words", "most", "weights", "expected"),
    [
        ("mail", {}, {}, "mail"),
        ("mail (8 shards)", {}, {}, "mail (8 shards)"),
        ("mail", {"mail": 1}, {}, "mail (up to 1 slot)"),
        ("mail", {}, {"mail": 3}, "mail (weight 3)"),
        ("mail (8 shards)", {"mail": 10}, {"mail": 3}, "mail (8 shards, up to 10 slots, weight 3)"),
    ],
)
def test_a_share_in_words(words: str, most: dict[str, int], weights: dict[str, int], expected: str) -> None:
    assert share_in_words(words, "mail", most, weights) == expected


def test_only_queues_with_something_of_their_own_have_a_share() -> None:
    assert shares_of(("mail", "bulk"), {}, {}) == {}
    assert shares_of(("mail", "bulk", "x"), {"mail": 2}, {"bulk": 3, "other": 1}) == {
        "mail": Share(2, 1),
        "bulk": Share(None, 3),
    }
