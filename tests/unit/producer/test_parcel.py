"""Jobs on their way as columns, against plain lists of what was put in."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from aioq.jobs.job import Priority
from aioq.producer.parcel import Parcel
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


# -- parcels ----------------------------------------------------------------------------------------------------


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


def parcel_of(entries: Sequence[Entry]) -> Parcel:
    parcel = Parcel()
    for entry in entries:
        if entry.several:
            parcel.several[len(parcel.futures)] = len(entry.jobs)
        parcel.extend(entry.jobs)
        parcel.deadlines.append(entry.deadline)
        parcel.futures.append(entry.future)
    return parcel


def check(parcel: Parcel, entries: Sequence[Entry]) -> None:
    jobs = [job for entry in entries for job in entry.jobs]
    assert list(parcel) == jobs
    assert parcel.special == {position: job for position, job in enumerate(jobs) if job != plain(job)}
    assert parcel.futures == [entry.future for entry in entries]
    assert parcel.deadlines == [entry.deadline for entry in entries]
    assert parcel.several == {at: len(entry.jobs) for at, entry in enumerate(entries) if entry.several}
    assert parcel.size == len(jobs)
    assert parcel.weights(parcel.size) == [len(job.envelope) for job in jobs]
    pending = [(list(each.jobs), each.deadline, each.again) for each in parcel.pending()]
    assert pending == [(entry.jobs, entry.deadline, parcel.again) for entry in entries]


def plain(job: NewJob) -> NewJob:
    return NewJob(job.id, job.envelope)


def fitting(entries: Sequence[Entry], max_items: int, max_weight: int) -> int:
    """How many of the first ones go together, worked out the plain way."""
    for count in range(len(entries), 1, -1):
        jobs = [job for entry in entries[:count] for job in entry.jobs]
        if len(jobs) <= max_items and sum(len(job.envelope) for job in jobs) <= max_weight:
            return count
    return 1


@pytest.mark.parametrize("seed", range(200))
async def test_what_is_withdrawn_is_gone_from_every_column_and_nothing_else_is(seed: int):
    dice = random.Random(seed)
    entries = entries_of(dice)
    parcel = parcel_of(entries)
    gone = [entry for entry in entries if dice.random() < 0.3]
    for entry in gone:
        entry.future.cancel()
    assert parcel.withdraw() == sum(len(entry.jobs) for entry in gone)
    check(parcel, [entry for entry in entries if entry not in gone])
    assert parcel.withdraw() == 0


@pytest.mark.parametrize("seed", range(200))
async def test_the_first_entries_are_split_off_as_many_as_fit(seed: int):
    dice = random.Random(seed)
    entries = entries_of(dice)
    parcel = parcel_of(entries)
    parcel.again = dice.random() < 0.5
    while entries:
        max_items, max_weight = dice.randrange(1, 20), dice.randrange(1, 60)
        count = fitting(entries, max_items, max_weight)
        first = parcel.split(max_items, max_weight)
        assert first.again is parcel.again
        check(first, entries[:count])
        entries = entries[count:]
        check(parcel, entries)


async def test_of_several_items_the_first_error_is_told_or_else_all_replies():
    entries = [
        Entry([NewJob(each, b"x") for each in ids], 0.0, asyncio.get_running_loop().create_future(), several)
        for ids, several in (("a", False), ("bc", True), ("d", False), ("ef", True), ("g", True))
    ]
    wrong, worse = ValueError("wrong"), ValueError("worse")
    told = parcel_of(entries).by_entry([True, True, wrong, False, True, False, worse])
    assert told == [True, wrong, False, [True, False], worse]
