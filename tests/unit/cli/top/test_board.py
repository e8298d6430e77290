"""What was read so far, and what is read next."""

from datetime import UTC, datetime

from aioq.cli.top.board import (
    ALL,
    HOLDERS_AT_ONCE,
    SHARDS_AT_ONCE,
    WORKER_SHARDS_AT_ONCE,
    Board,
    Rotation,
)
from aioq.jobs.job import JobInfo, JobState
from aioq.operate.overview import ShardReading
from aioq.store.history import MinuteCount, Minutes
from aioq.store.leases import WorkerLease
from aioq.store.pauses import PausePeriod, Pauses

QUEUED, RUNNING, FAILED = JobState.QUEUED, JobState.RUNNING, JobState.FAILED


def reading(oldest: float | None = None, pauses: Pauses | None = None, **counts: int) -> ShardReading:
    minutes = Minutes(60_000, [MinuteCount(), MinuteCount()], oldest)
    return ShardReading(
        counts={JobState(name): count for name, count in counts.items()},
        minutes=minutes,
        pauses=pauses or Pauses(),
    )


def board_of(**readings: ShardReading) -> Board:
    """A board of queues; `_1` after a name stands for its second shard."""
    board = Board()
    names = {name: name.replace("_", "#") for name in readings}
    board.set_shards(names.values())
    for name, each in readings.items():
        board.take_shard(names[name], each, 0.0)
    return board


def test_each_has_its_turn() -> None:
    turns, items = Rotation[str](), list("abcde")
    assert [turns.take(items, 2) for _ in range(4)] == [["a", "b"], ["c", "d"], ["e", "a"], ["b", "c"]]
    assert turns.take(["a", "new"], 2) == ["new", "a"]
    assert turns.take([], 2) == []


def test_a_refresh_has_its_bound_however_many_queues_and_workers_there_are() -> None:
    board = board_of(**{f"q{number:03}": reading(running=1) for number in range(200)})
    plan = board.plan(1.0)
    assert len(plan.shards) == SHARDS_AT_ONCE
    assert len(plan.workers) == WORKER_SHARDS_AT_ONCE
    board.take_workers({"q000": [WorkerLease(f"w-{number}-1", 1, 0) for number in range(500)]})
    first, second = board.plan_running(ALL), board.plan_running("q000")
    assert len(first["q000"]) == HOLDERS_AT_ONCE
    assert not {*first["q000"]} & {*second["q000"]}
    assert len(board.busiest(ALL, RUNNING)) == SHARDS_AT_ONCE
    assert board.plan_running("q001") == {}
    seen = {name for _ in range(10) for name, _ in board.plan(1.0).shards}
    assert len(seen) == 200


def test_shards_are_one_queue_and_all_queues_are_the_first() -> None:
    board = board_of(
        mail=reading(3.0, queued=2, failed=1),
        mail_1=reading(7.0, Pauses(PausePeriod(0), {"a": PausePeriod(0)}), queued=3),
        default=reading(queued=10),
    )
    views = board.queues()
    assert [view.name for view in views] == [ALL, "default", "mail"]
    assert [view.count(QUEUED) for view in views] == [15, 10, 5]
    assert [view.name for view in board.queues(busiest_first=True)] == [ALL, "default", "mail"]
    assert [view.oldest for view in views] == [7.0, None, 7.0]
    assert [view.is_paused for view in views[1:]] == [False, True]
    assert views[2].paused_tasks == 1
    assert board.busiest("mail", QUEUED) == ["mail#1", "mail"]
    assert board.busiest(ALL, FAILED) == ["mail"]
    board.fits_queue = lambda name: name == "mail"
    assert [view.name for view in board.queues()] == [ALL, "mail"]
    assert [name for name, _ in board.plan(0.0).shards] == ["mail", "mail#1"]


def test_a_queue_lacks_workers_once_that_is_known() -> None:
    board = board_of(mail=reading(), mail_1=reading())
    assert not board.view("mail").lacks_workers
    board.take_workers({"mail": [WorkerLease("w-1", 0, 0)], "mail#1": []})
    assert board.view("mail").lacks_workers
    board.take_workers({"mail": [WorkerLease("w-1", 5, 0)]})
    assert not board.view("mail").lacks_workers
    assert {worker: len(each) for worker, each in board.workers("mail").items()} == {"w": 1}


def test_running_jobs_stay_until_their_worker_is_read_again_or_gone() -> None:
    def job(name: str, worker: str, second: int) -> JobInfo:
        at = datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)
        return JobInfo(id=name, queue="mail", task="t", state=RUNNING, worker=worker, started_at=at)

    board = board_of(mail=reading(running=3), default=reading())
    leases = [WorkerLease("a-1", 5, 0), WorkerLease("b-1", 5, 0)]
    board.take_workers({"mail": leases})
    holders = board.plan_running(ALL)
    assert holders == {"mail": ["a-1", "b-1"]}
    board.take_running(holders, [job("late", "b-1", 9), job("early", "a-1", 1)])
    assert [each.id for each in board.running(ALL)] == ["early", "late"]
    assert board.running("default") == []
    board.take_running({"mail": ["a-1"]}, [])
    assert [each.id for each in board.running("mail")] == ["late"]
    board.take_workers({"mail": leases[:1]})
    assert board.running("mail") == []


def test_what_is_known_stays_when_queues_are_listed_again() -> None:
    board = board_of(mail=reading(queued=2))
    board.set_shards(["also", "mail"])
    assert [view.name for view in board.queues(busiest_first=True)] == [ALL, "mail", "also"]
    board.set_shards(["mail", "new"])
    assert [view.count(QUEUED) for view in board.queues()] == [2, 2, 0]
    assert board.now_ms == 60_000
