"""`aioq.worker.claim_plan`: events in, decisions out."""

import pytest

from aioq.store.bounds import CLAIM_LIMIT
from aioq.store.contract import Claim, Token
from aioq.worker.claim_plan import FEW_QUEUES, GROWTH, MAX_CLAIM, MAX_RECEIVED, ClaimPlan, ClaimRequest
from tests.unit.kit import claimed

LARGE = b"e" * (CLAIM_LIMIT // 2)


def claim(*ids: str, lost: bool = False, more: bool = False, envelope: bytes = b"") -> Claim:
    return Claim([claimed(envelope, job_id=each) for each in ids], lost=lost, more=more)


@pytest.mark.parametrize(
    ("slots", "free", "most"),
    [(1, 1, 1), (2, 2, 2), (3, 3, 2), (6, 6, 3), (6, 2, 2), (100, 100, 50), (10_000, 10_000, MAX_CLAIM)],
)
def test_a_claim_is_for_no_more_than_half_of_the_slots(slots: int, free: int, most: int) -> None:
    assert ClaimPlan(slots).request(free).most == most


@pytest.mark.parametrize(
    ("slots", "queues", "most"),
    [(100, FEW_QUEUES, 50), (100, 5, 20), (100, 200, 1), (6, 5, 1), (1, 200, 1), (1000, 200, 5)],
)
def test_the_first_claims_of_many_queues_leave_slots_for_one_another(slots: int, queues: int, most: int) -> None:
    assert ClaimPlan(slots, queues).request(slots).most == most


def test_a_claim_of_one_of_many_queues_grows_as_long_as_the_claims_are_full() -> None:
    plan = ClaimPlan(100, 200)
    asked: list[int] = []
    for _ in range(5):
        asked.append((request := plan.request(100)).most)
        plan.answered(request, claim(*map(str, range(request.most))))
    request = plan.request(100)
    plan.answered(request, claim("a"))
    assert asked == [1, GROWTH, GROWTH**2, 50, 50]
    request = plan.request(100)
    assert request.most == GROWTH
    plan.answered(request, claim())
    assert plan.request(100).most == 1


@pytest.mark.parametrize(
    ("named", "free", "most"), [((1,), 100, 2), ((0,), 100, 1), ((64, 3), 100, 50), ((9,), 3, 3)]
)
def test_a_claim_of_one_of_many_queues_takes_all_that_it_was_woken_for(
    named: tuple[int, ...], free: int, most: int
) -> None:
    tokens = [Token("normal", f"{n}-0", tuple(map(str, range(n)))) for n in named]
    assert ClaimPlan(100, 200).request(free, tokens).most == most


@pytest.mark.parametrize(
    ("answer", "free", "waits"),
    [
        (claim(), 2, True),
        (claim("a"), 1, True),
        (claim("a"), 0, False),  # the slots are full
        (claim("a", "b"), 1, False),  # as many as were asked for: there may be more
        (claim(more=True), 2, False),
    ],
)
def test_it_waits_for_more_where_an_answer_was_all_there_is(answer: Claim, free: int, waits: bool) -> None:
    plan = ClaimPlan(4)
    request = plan.request(2)
    plan.answered(request, answer)
    assert plan.should_wait(request, answer, free) is waits


def test_a_weighted_queue_gives_each_lane_its_share_however_few_jobs_a_claim_takes() -> None:
    for most in (1, 2, 3, 7, 10, 11, 50):
        plan = ClaimPlan(2 * most, weighted=True)
        given = [0, 0, 0]
        while sum(given) < 10 * most:
            request = plan.request(most)
            assert sum(request.shares) == request.most
            given = [before + share for before, share in zip(given, request.shares, strict=True)]
            plan.answered(request, claim(*map(str, range(request.most))))
        assert given == [6 * most, 3 * most, most], most


def test_only_what_was_taken_counts_as_a_turn() -> None:
    plan = ClaimPlan(2, weighted=True)
    asked: list[tuple[int, ...]] = []
    for taken in ((), ("a",), (), ("b",)):
        asked.append(tuple((request := plan.request(1)).shares))
        plan.answered(request, claim(*taken))
    assert asked == [(1, 0, 0), (1, 0, 0), (0, 1, 0), (0, 1, 0)]


def test_a_strict_queue_has_no_shares() -> None:
    assert ClaimPlan(4).request(4).shares == ()


def test_a_look_that_is_asked_for_during_a_claim_is_another_claim() -> None:
    plan = ClaimPlan(4)
    request = plan.request(2)
    plan.wake()
    plan.answered(request, claim())
    assert not plan.should_wait(request, claim(), 2)
    request = plan.request(2)
    plan.answered(request, claim())
    assert plan.should_wait(request, claim(), 2)


def test_it_waits_for_nothing_while_it_stops() -> None:
    plan = ClaimPlan(4)
    request = plan.request(2)
    plan.stopping = True
    plan.answered(request, claim())
    assert not plan.should_wait(request, claim(), 2)


def known(plan: ClaimPlan, *answers: Claim) -> list[bool]:
    """Whether the claims say what is known here: one for each answer, and one more."""
    said: list[bool] = []
    for answer in answers:
        request = plan.request(2)
        said.append(request.known)
        plan.answered(request, answer)
    return [*said, plan.request(2).known]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([claim()], [True, False]),
        ([claim("a"), claim()], [True, False, False]),
        ([claim("a", "b"), claim()], [True, True, False]),  # a full answer may have left some out
        ([claim("a", envelope=2 * LARGE), claim()], [True, True, False]),  # and so may a long one
        ([claim(more=True), claim()], [True, True, False]),
    ],
)
def test_after_a_failure_claims_say_what_is_known_until_one_was_not_full(
    answers: list[Claim], said: list[bool]
) -> None:
    plan = ClaimPlan(4)
    assert known(plan) == [False]
    plan.failed()
    assert known(plan, *answers) == said


def test_jobs_that_got_lost_during_a_claim_are_found_by_the_next() -> None:
    plan = ClaimPlan(4)
    request = plan.request(2)
    plan.find_unknown()
    plan.answered(request, claim())
    assert plan.request(2) == ClaimRequest(2, known=True, wakes=0)


def test_a_job_that_comes_during_a_claim_is_taken_after_its_jobs() -> None:
    plan = ClaimPlan(4)
    first, second = claimed(job_id="first"), claimed(job_id="second")
    assert plan.dispatched("w", first)
    request = plan.request(2)
    assert not plan.dispatched("w", second)
    assert plan.answered(request, claim("a")) == [("w", second)]
    assert plan.dispatched("w", claimed(job_id="third"))


@pytest.mark.parametrize("ends", ["failed", "lost"])
def test_what_came_during_a_claim_that_failed_or_lost_the_lease_is_dropped(ends: str) -> None:
    plan = ClaimPlan(4)
    request = plan.request(2)
    assert not plan.dispatched("w", claimed(job_id="a"))
    if ends == "failed":
        plan.failed()
    else:
        assert not plan.answered(request, claim(lost=True))
    request = plan.request(2)
    assert not plan.answered(request, claim())


def test_what_a_claim_with_known_jobs_has_brought_is_not_taken_again_however_late_it_comes() -> None:
    plan = ClaimPlan(4)
    plan.failed()
    request = plan.request(2)
    during = [claimed(job_id=each) for each in ("a", "b")]
    assert not any(plan.dispatched("w", each) for each in during)
    assert plan.answered(request, claim("a", "late")) == [("w", during[1])]
    assert not plan.dispatched("w", claimed(job_id="late"))


def test_of_what_claims_have_brought_the_last_are_remembered() -> None:
    plan = ClaimPlan(4)
    for start in range(0, MAX_RECEIVED + 2, 2):
        plan.failed()
        plan.answered(plan.request(2), claim(str(start), str(start + 1)))
    assert [plan.dispatched("w", claimed(job_id=each)) for each in ("0", "1", "2", str(MAX_RECEIVED))] == [
        *(True, True, False, False)
    ]


def test_what_it_is_woken_for_is_asked_for_once_and_one_more():
    plan = ClaimPlan(100, queues=200)
    assert plan.stands
    plan.woken(7)
    plan.woken(0)
    request = plan.request(100)
    assert (request.most, request.woken) == (8, True)
    plan.answered(request, Claim())
    assert plan.request(100)[0] == 1


def test_a_wake_up_is_passed_on_once():
    plan = ClaimPlan(100, queues=200)
    assert not plan.pass_on()
    plan.woken(1)
    assert plan.pass_on()
    assert not plan.pass_on()
    assert not ClaimPlan(100, queues=FEW_QUEUES).stands


def test_a_wake_up_during_a_claim_is_followed_by_another_claim():
    plan = ClaimPlan(100, queues=200)
    request = plan.request(100)
    plan.woken(1)
    assert not plan.should_wait(request, Claim(), 100)


def test_with_another_number_of_slots_it_claims_for_half_of_these() -> None:
    plan = ClaimPlan(100)
    plan.resize(10)
    assert plan.request(10).most == 5
    many = ClaimPlan(100, 10)
    many.resize(20)
    assert many.request(20).most == 2
