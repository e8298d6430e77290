"""Jobs on their way as columns, against plain lists of what was put in."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from aioq.jobs.job import Priority
from aioq.producer.buffer import SendBatch
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob

pytestmark = pytest.mark.anyio

KINDS: list[dict[str, Any]] = [
    {},
    {"nonce": "n"},
    {"waiter": "me"},
    {"delay_ms": 5},
    {"eta_ms": 0},
    {"priority": Priority.LOW},
]
"""What makes a job more than an id and an envelope; nothing first."""


def a_job(dice: random.Random, number: int) -> NewJob:
    return NewJob(f"job-{number}", b"x" * dice.randrange(1, 9), **dice.choice(KINDS[:1] * 3 + KINDS))


# -- columns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["jobs", "columns", "one by one"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_jobs_in_columns_are_the_jobs_that_were_put_in(kind: dict[str, Any], how: str):
    jobs = [NewJob("a", b"1"), NewJob("b", b"2", **kind), NewJob("c", b"3")]
    columns = NewJobs(jobs[:1])
    if how == "jobs":
        columns.extend(iter(jobs[1:]))
    elif how == "columns":
        columns.extend(NewJobs(jobs[1:]))
    else:
        columns.append(jobs[1])
        columns.append(jobs[2])
    assert list(columns) == jobs
    assert columns[1:] == jobs[1:]
    assert columns[::-1] == jobs[::-1]
    assert (columns[-1], columns[0], len(columns)) == (jobs[-1], jobs[0], 3)
    assert columns.special == ({1: jobs[1]} if kind else {})
    with pytest.raises(IndexError):
        columns[3]
    with pytest.raises(IndexError):
        columns[-4]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("first", "after"), [(0, 4), (0, 2), (1, 3), (2, 4), (2, 2), (4, 4)])
def test_a_part_of_the_columns(kind: dict[str, Any], first: int, after: int):
    jobs = [NewJob(letter, letter.encode(), **(kind if letter in "bc" else {})) for letter in "abcd"]
    columns = NewJobs(jobs)
    part = columns.part(first, after)
    assert list(part) == jobs[first:after]
    assert len(part.special) == (len([job for job in jobs[first:after] if job.id in "bc"]) if kind else 0)
    part.append(NewJob("e", b"e", **kind))
    assert list(columns) == jobs
    columns.replace(part)
    assert list(columns) == [*jobs[first:after], NewJob("e", b"e", **kind)]


def test_usual_jobs_are_made_of_the_columns():
    columns = NewJobs.usual(["a", "b"], [b"1", b"2"])
    assert list(columns) == [NewJob("a", b"1"), NewJob("b", b"2")]
    assert not columns.special


def test_who_appends_to_the_columns_alone_adds_a_plain_job():
    columns = NewJobs([NewJob("a", b"1", nonce="n")])
    columns.ids.append("b")
    columns.envelopes.append(b"2")
    assert list(columns) == [NewJob("a", b"1", nonce="n"), NewJob("b", b"2")]


# -- batches ----------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """What was put in at once."""

    jobs: list[NewJob]
    deadline: float
    future: "asyncio.Future[Any]"
    several: bool


def entries_of(dice: random.Random) -> list[Entry]:
    numbers = iter(range(1000))
    entries: list[Entry] = []
    for _ in range(dice.randrange(1, 12)):
        several = dice.random() < 0.4
        count = dice.randrange(1, 6) if several else 1
        jobs = [a_job(dice, next(numbers)) for _ in range(count)]
        entries.append(Entry(jobs, dice.random(), asyncio.get_running_loop().create_future(), several))
    return entries


def batch_of(entries: Sequence[Entry]) -> SendBatch:
    batch = SendBatch()
    for entry in entries:
        if entry.several:
            batch.several[len(batch.futures)] = len(entry.jobs)
        batch.extend(entry.jobs)
        batch.deadlines.append(entry.deadline)
        batch.futures.append(entry.future)
    return batch


def check(batch: SendBatch, entries: Sequence[Entry]) -> None:
    jobs = [job for entry in entries for job in entry.jobs]
    assert list(batch) == jobs
    assert batch.special == {position: job for position, job in enumerate(jobs) if job != plain(job)}
    assert batch.futures == [entry.future for entry in entries]
    assert batch.deadlines == [entry.deadline for entry in entries]
    assert batch.several == {at: len(entry.jobs) for at, entry in enumerate(entries) if entry.several}
    assert batch.size == len(jobs)
    assert batch.weights(batch.size) == [len(job.envelope) for job in jobs]
    apart = [(list(each), each.deadlines, each.again) for each in batch.apart()]
    assert apart == [(entry.jobs, [entry.deadline], batch.again) for entry in entries]


def plain(job: NewJob) -> NewJob:
    return NewJob(job.id, job.envelope)


def fitting(entries: Sequence[Entry], max_items: int, max_weight: int) -> int:
    """How many of the first ones go together, worked out the plain way."""
    for count in range(len(entries), 1, -1):
        jobs = [job for entry in entries[:count] for job in entry.jobs]
        if len(jobs) <= max_items and sum(len(job.envelope) for job in jobs) <= max_weight:
            return count
    return 1


async def test_what_is_withdrawn_is_gone_from_every_column_and_nothing_else_is():
    dice = random.Random(20261124)
    for _ in range(200):
        withdraw_some(dice)


def withdraw_some(dice: random.Random) -> None:
    entries = entries_of(dice)
    batch = batch_of(entries)
    gone = [entry for entry in entries if dice.random() < 0.3]
    for entry in gone:
        entry.future.cancel()
    assert batch.withdraw() == sum(len(entry.jobs) for entry in gone)
    check(batch, [entry for entry in entries if entry not in gone])
    assert batch.withdraw() == 0


async def test_the_first_entries_are_split_off_as_many_as_fit():
    dice = random.Random(20261124)
    for _ in range(200):
        split_off_all(dice)


def split_off_all(dice: random.Random) -> None:
    entries = entries_of(dice)
    batch = batch_of(entries)
    batch.again = dice.random() < 0.5
    while entries:
        max_items, max_weight = dice.randrange(1, 20), dice.randrange(1, 60)
        count = fitting(entries, max_items, max_weight)
        first = batch.split(max_items, max_weight)
        assert first.again is batch.again
        check(first, entries[:count])
        entries = entries[count:]
        check(batch, entries)


async def test_several_items_get_the_first_error_or_else_all_replies():
    entries = [
        Entry([NewJob(each, b"x") for each in ids], 0.0, asyncio.get_running_loop().create_future(), several)
        for ids, several in (("a", False), ("bc", True), ("d", False), ("ef", True), ("g", True))
    ]
    wrong, worse = ValueError("wrong"), ValueError("worse")
    replies = batch_of(entries).by_entry([True, True, wrong, False, True, False, worse])
    assert replies == [True, wrong, False, [True, False], worse]
