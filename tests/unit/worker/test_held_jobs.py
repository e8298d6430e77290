from aioq.worker.held_jobs import HeldJobs


def test_a_job_is_held_until_its_outcome_is_written() -> None:
    held = HeldJobs()
    held.add("a", 1)
    held.add("b", 2)
    assert held.ids() == {"a", "b"}
    held.discard("a", 1)
    held.discard("unknown", 1)
    assert held.ids() == {"b"}
    held.clear()
    assert held.ids() == set()


def test_a_retry_that_was_claimed_before_the_reply_about_the_first_run_stays() -> None:
    held = HeldJobs()
    held.add("a", 1)
    held.add("a", 2)
    held.discard("a", 1)
    assert held.ids() == {"a"}
    held.discard("a", 2)
    assert held.ids() == set()
