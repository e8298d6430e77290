"""`aioq.store.redis.replies`: what follows a reply that leaves something for another call."""

import re
from importlib.resources import files

from aioq.store.contract import Limits, Settlement, Verb
from aioq.store.history import RunReport
from aioq.store.redis.arguments import settle_args
from aioq.store.redis.replies import Rest, parse_settled

JOBS = [f"job-{number}" for number in range(12)]


def settled(count: int) -> list[Settlement]:
    return [
        Settlement(job_id, number, Verb.SUCCEEDED, job_id.encode(), ttl_ms=60_000, report=RunReport("add", number))
        for number, job_id in enumerate(JOBS[:count])
    ]


def test_jobs_that_a_settle_leaves_are_settled_by_another_call_with_what_belongs_to_them():
    limits = Limits(history=100, stats=True)
    args = settle_args("w", settled(12), limits, idle=False)
    assert args[9], "the counters of all twelve"

    rest = parse_settled(args, [3, -11, -12])

    assert isinstance(rest, Rest)
    own = settle_args("w", [settled(12)[10], settled(12)[11]], limits, idle=False)
    assert rest.args == own, "as if these two had been settled by themselves; the server counts them"
    assert rest.read([2]) == [number not in {2, 11} for number in range(12)]


def test_a_settle_that_leaves_nothing_is_answered_at_once():
    args = settle_args("w", settled(9), Limits(history=100, stats=True), idle=False)
    assert parse_settled(args, [2]) == [number != 1 for number in range(9)]


def test_the_first_job_is_where_the_script_expects_it():
    script = files("aioq.store.redis").joinpath("lua", "commands", "settle.lua").read_text()
    first = re.search(r"^local FIRST = (\d+)$", script, re.MULTILINE)
    assert first is not None
    args = settle_args("w", settled(1), Limits(), idle=False)
    assert args[int(first[1]) - 1] == "job-0"
