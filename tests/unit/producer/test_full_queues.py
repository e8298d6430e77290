import pytest

from aioq.errors import SendError
from aioq.producer.buffer import SendBatch, full_of
from aioq.store.extra import queue_full


def test_what_a_full_queue_has_refused_is_one_error():
    errors = [queue_full("mail", ["a"], 5, 5), queue_full("mail#1", ["b", "c"], 6, 5)]
    joined = full_of(errors)
    assert joined is not None
    assert str(joined) == "queue 'mail' is full: 6 jobs of 5 (max_size) are there; a, b, c were not sent"
    assert (joined.job_ids, joined.queue, joined.size, joined.max_size) == (("a", "b", "c"), "mail", 6, 5)
    assert full_of([]) is None
    assert full_of([*errors, SendError("?", ("d",))]) is None


@pytest.mark.parametrize(("replies", "expected"), [([True, True], [True, True]), ([False, True], [False, True])])
def test_the_reply_to_several_jobs_that_are_there_is_theirs(replies: list[bool], expected: list[bool]):
    batch = SendBatch()
    batch.futures, batch.several = [None], {0: 2}
    assert batch.by_entry(replies) == [expected]


def test_those_that_were_refused_of_several_are_named_together():
    batch = SendBatch()
    batch.futures, batch.several = [None, None], {0: 3}
    one, two = queue_full("mail", ["b"], 5, 5), queue_full("mail", ["c"], 5, 5)
    several, alone = batch.by_entry([True, one, two, True])
    assert several.job_ids == ("b", "c")
    assert alone is True


def test_many_are_counted():
    error = queue_full("mail", [f"job-{number}" for number in range(7)], 1, 1)
    assert str(error).endswith(
        "1 job of 1 (max_size) is there; job-0, job-1, job-2, job-3, job-4 and 2 more were not sent"
    )
