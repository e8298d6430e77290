import pytest

from aioq.store.diagnosis import Check
from aioq.store.redis.diagnosis.server import ClockOffset, clock_finding, clock_from, state_findings

WELL = {"role": "master", "connected_slaves": "1", "rdb_last_bgsave_status": "ok", "aof_last_write_status": "ok"}


def test_a_clock_is_compared_with_the_middle_of_the_question():
    ahead, within = clock_from(100.0, 102.25, 100.5)
    assert (ahead, within) == (2000.0, 250.0)


@pytest.mark.parametrize(
    ("clock", "words"),
    [
        (ClockOffset(0.2, 0.1), None),
        (ClockOffset(-1_000, 0), None),
        (ClockOffset(1_500, 600), None),  # it may be right
        (ClockOffset(2_000, 10), "2.0 s ahead of this host's"),
        (ClockOffset(-3_600_000, 10), "3600.0 s behind this host's"),
    ],
)
def test_a_clock_is_wrong_if_it_certainly_is(clock: ClockOffset, words: str | None):
    found = clock_finding(clock, "redis://host")
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found.problem


@pytest.mark.parametrize(
    ("facts", "replicas", "check"),
    [
        ({}, 1, None),
        ({"maxmemory": "0", "used_memory": "100"}, 0, None),
        ({"maxmemory": "100", "used_memory": "89"}, 0, None),
        ({"maxmemory": "100", "used_memory": "95"}, 0, Check.EVICTION),
        ({"rdb_last_bgsave_status": "err"}, 0, Check.PERSISTENCE),
        ({"aof_last_write_status": "err"}, 0, Check.PERSISTENCE),
        ({"role": "slave", "connected_slaves": "0"}, 1, Check.SERVER),
        ({"connected_slaves": "0"}, 1, Check.SERVER),
        ({"connected_slaves": "0"}, 0, None),
        ({"connected_slaves": "1"}, 2, Check.SERVER),
        ({"connected_slaves": "2"}, 2, None),
    ],
)
def test_the_state_of_a_server(facts: dict[str, str], replicas: int, check: Check | None):
    found = state_findings({**WELL, **facts}, "redis://host", replicas=replicas)
    assert [each.check for each in found] == ([] if check is None else [check])
