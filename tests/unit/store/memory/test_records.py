"""Jobs of a queue with a bound are counted as they change, and not by looking at all of them."""

from aioq.jobs.job import JobState, Priority
from aioq.store.memory.records import CountedRecords, Record


def record(job_id: str) -> Record:
    return Record(job_id, b"", Priority.NORMAL, 1)


def test_jobs_that_are_queued_scheduled_or_wait_are_counted() -> None:
    jobs = CountedRecords()
    for job_id in "abc":
        jobs[job_id] = record(job_id)
    assert jobs.waiting == 3
    jobs["a"].state = JobState.SCHEDULED
    jobs["b"].state = JobState.WAITING
    assert jobs.waiting == 3
    jobs["c"].state = JobState.RUNNING
    assert jobs.waiting == 2
    jobs["c"].state = JobState.QUEUED
    assert jobs.waiting == 3, "it has come back"
    jobs["c"].state = JobState.FAILED
    del jobs["c"]
    assert jobs.waiting == 2, "it had ended before it was deleted"
    del jobs["b"]
    assert jobs.waiting == 1


def test_a_job_that_is_replaced_or_gone_counts_no_more() -> None:
    jobs = CountedRecords()
    jobs["a"] = before = record("a")
    jobs["a"] = record("a")
    assert jobs.waiting == 1
    before.state = JobState.RUNNING
    assert jobs.waiting == 1, "it is none of the queue any more"
    jobs["a"] = jobs["a"]
    assert jobs.waiting == 1
