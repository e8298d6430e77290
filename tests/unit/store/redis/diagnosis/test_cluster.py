import pytest
from msgspec.structs import replace

from aioq.errors import ServerRejectedError, ServerUnavailableError
from aioq.store.diagnosis import Check, Diagnosis, Finding, ServerInfo, ServerReport
from aioq.store.redis.diagnosis.cluster import crowded_node, merged, slot_findings

SERVER = ServerReport(ServerInfo("a", "valkey", "9.1.2"))


@pytest.mark.parametrize(
    ("counts", "crowded"),
    [
        ((), None),
        ((5,), None),  # one node has all there is
        ((1, 0, 0), None),
        ((2, 1, 0), None),
        ((3, 0, 0), "0"),
        ((1, 1, 4), "2"),
        ((3, 1), None),
        ((4, 0), "0"),
        ((1, 5, 2, 2), None),  # many, and not more than half
    ],
)
def test_a_node_is_crowded_if_it_has_most_queues(counts: tuple[int, ...], crowded: str | None):
    queues = {str(node): [f"q{number}" for number in range(count)] for node, count in enumerate(counts)}
    assert crowded_node(queues) == crowded


@pytest.mark.parametrize(
    ("stuck", "words"),
    [
        ([], "none of this App's queues is in them"),
        (["mail"], "nobody serves mail"),
        ([f"q{number}" for number in range(12)], "q8, q9 and 2 more"),
    ],
)
def test_queues_in_slots_that_nobody_serves_are_named(stuck: list[str], words: str):
    (found,) = slot_findings("cluster", {"a": ["default"]}, uncovered=5, stuck=stuck)
    assert "5 slots" in found.problem
    assert found.problem.endswith(words)


def test_a_node_that_is_away_is_a_finding_beside_those_of_the_others():
    about_a = Finding(Check.EVICTION, "a", "evicts")
    about_all = Finding(Check.SLOTS, "cluster", "has")
    answers = [
        Diagnosis((SERVER,), (about_a,), ("note",)),
        ServerUnavailableError("b cannot be reached: gone"),
        "view",
    ]

    found = merged({"a": [], "b": ["mail"], "c": []}, answers, [about_all])

    assert (found.servers, found.notes) == ([SERVER], ["note"])
    about_b = Finding(Check.REACHABILITY, "b", "cannot be reached: gone")
    advice = "start it, or promote a replica of it: until then nobody serves mail"
    assert found.findings == [about_all, about_a, replace(about_b, advice=advice)]


def test_a_node_that_refuses_is_not_to_be_started():
    answers = [Diagnosis((SERVER,)), ServerRejectedError("b refused the login; check the password")]
    (found,) = merged({"a": [], "b": ["mail"]}, answers, []).findings
    assert found == Finding(Check.REACHABILITY, "b", "refused the login", "check the password")


def test_if_no_node_can_be_checked_that_is_an_error():
    with pytest.raises(ServerRejectedError, match="login"):
        merged({"a": []}, [ServerRejectedError("a refused the login")], [])
    with pytest.raises(ZeroDivisionError):
        merged({"a": []}, [ZeroDivisionError()], [])
