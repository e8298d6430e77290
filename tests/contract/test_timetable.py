"""Schedules in the server: written and ticked once, whoever tries; what a tick makes, and when nothing."""

import asyncio
from typing import Any

import msgspec
import pytest

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import NewJob, Store, Verb
from aioq.store.memory import MemoryStore
from aioq.store.pubsub import worker_channel
from aioq.store.redis import ClusterStore, RedisStore
from aioq.store.schedules import Agenda, DeclarationNote, Entry, Overlap, Owners, Tick
from tests.contract.kit import (
    CALL,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    Listener,
    ids,
    info,
    joined,
    keep,
    settle,
    state,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio

DEFINITION = b"whatever the caller makes of it"


async def now(store: Store) -> int:
    return (await store.timetable.read(QUEUE, [])).now_ms


async def read(store: Store, schedule_id: str = "s") -> Entry:
    (entry,) = (await store.timetable.read(QUEUE, [schedule_id])).entries
    return entry


async def put(store: Store, schedule_id: str = "s", *, due_in: int | None = -1, **fields: Any) -> Entry:
    """Store a schedule whose next tick is `due_in` ms from now."""
    next_ms = None if due_in is None else await now(store) + due_in
    entry = Entry(id=schedule_id, definition=DEFINITION, envelope=CALL, next_ms=next_ms, **fields)
    assert await store.timetable.write(QUEUE, [entry]) == [True]
    return await read(store, schedule_id)


def tick(
    entry: Entry,
    *jobs: str,
    next_in: int | None = LONG,
    overlap: Overlap = Overlap.ALLOW,
    max_runs: int = 0,
    late: int = 0,
) -> Tick:
    at = entry.next_ms or 0
    return Tick(
        id=entry.id,
        rev=entry.rev,
        jobs=[(job, at, at + late if late else 0) for job in jobs],
        next_ms=None if next_in is None else at + next_in,
        overlap=overlap,
        max_runs=max_runs,
    )


async def make(store: Store, *jobs: str, **options: Any) -> int | None:
    """Make ticks of the schedule `s` as it is stored."""
    (made,) = (await store.timetable.tick(QUEUE, [tick(await read(store), *jobs, **options)])).made
    return made


async def delete(store: Store, schedule_id: str = "s") -> None:
    entry = await read(store, schedule_id)
    assert await store.timetable.write(QUEUE, [Entry(id=schedule_id, rev=entry.rev)]) == [True]


async def run(store: Store, job_id: str) -> None:
    """Run the next job, which is this one, to its end."""
    job = await take_one(store, "w")
    assert job.id == job_id
    assert await settle(store, "w", job, Verb.SUCCEEDED, THREE)


# -- writing ----------------------------------------------------------------------------------------------------


async def test_a_schedule_is_kept_as_it_was_written(store: Store):
    entry = Entry(
        id="a ü.@b",
        definition=DEFINITION,
        envelope=CALL,
        priority=Priority.HIGH,
        code="hash",
        changed=True,
        paused=True,
        next_ms=await now(store) + LONG,
        runs=3,
        skipped=2,
    )
    assert await store.timetable.write(QUEUE, [entry]) == [True]
    stored = await read(store, entry.id)
    assert stored == msgspec.structs.replace(entry, rev=stored.rev)
    assert stored.rev > 0


async def test_what_is_not_there_is_not_read(store: Store):
    await put(store, "there")
    agenda = await store.timetable.read(QUEUE, ["gone", "there", "never"])
    assert [entry.id for entry in agenda.entries] == ["there"]


async def test_a_write_by_an_old_revision_is_refused(store: Store):
    entry = await put(store)
    changed = msgspec.structs.replace(entry, paused=True)
    assert await store.timetable.write(QUEUE, [changed, changed]) == [True, False]
    assert await store.timetable.write(QUEUE, [msgspec.structs.replace(entry, rev=0)]) == [False]
    assert (await read(store)).rev > entry.rev


async def test_the_latest_declaration_is_current_and_the_one_before_is_returned(store: Store):
    note = store.timetable.note_declaration
    first = await note(QUEUE, 0, "aa")
    assert (first.code, first.before) == ("aa", "")
    second = await note(QUEUE, 0, "bb")
    assert (second.code, second.before) == ("bb", "aa")
    assert second.since > first.since > 0
    assert await note(QUEUE, first.since, "aa") == DeclarationNote(second.since, "bb", "bb")
    assert await note(QUEUE, second.since, "bb") == DeclarationNote(second.since, "bb", "bb")
    assert await note(QUEUE, second.since + 1, "aa") == DeclarationNote(second.since + 1, "aa", "bb")
    assert (await note("other", first.since, "aa")).before == ""
    assert await store.timetable.queues() == [], "none of this is a schedule"


async def test_what_a_worker_declares_is_its_own_until_it_goes(store: Store):
    await put(store)
    for worker in ("w", "v"):
        await joined(store, worker)
    owners = await store.timetable.owners(QUEUE, ["s", "t"])
    assert (owners.declared_by, owners.silent in {"w", "v"}) == (["", ""], True)

    await store.timetable.note_declaration(QUEUE, 0, "aa", worker="w", ids=["s", "elsewhere"])
    await store.timetable.note_declaration(QUEUE, 0, "bb", worker="v", ids=["s", "t"])
    await store.timetable.note_declaration(QUEUE, 0, "cc", worker="nobody", ids=["u"])
    owners = await store.timetable.owners(QUEUE, ["elsewhere", "t", "u"])
    assert owners == Owners(["w", "v", ""], "")

    await store.depart(QUEUE, "v")
    assert await store.timetable.owners(QUEUE, ["s", "t"]) == Owners(["w", ""], "")
    while (await store.recover(QUEUE, b"", 10, dead="w")).more:
        pass
    assert await store.timetable.owners(QUEUE, ["s", "t"]) == Owners(["", ""], "")


async def test_a_worker_of_an_app_without_schedules_says_so_and_leaves_nothing_behind(store: Store):
    await joined(store, "w")
    first = await store.timetable.note_declaration(QUEUE, 0, "aa", worker="w")
    assert (first.code, first.before) == ("aa", "aa")
    assert await store.timetable.owners(QUEUE, ["s"]) == Owners([""], "")
    assert (await store.timetable.note_declaration(QUEUE, 0, "bb", worker="w", ids=["s"])).before == "", (
        "no note of it is left"
    )


async def test_one_that_a_worker_declares_is_not_removed_as_undeclared(store: Store):
    entry = await put(store)
    await joined(store, "w")
    await store.timetable.note_declaration(QUEUE, 0, "aa", worker="w", ids=["s"])
    gone = Entry(id="s", rev=entry.rev, code="hash")
    assert await store.timetable.write(QUEUE, [gone]) == [False]
    assert await read(store) == entry
    await store.depart(QUEUE, "w")
    assert await store.timetable.write(QUEUE, [gone]) == [True]


async def test_one_that_is_not_declared_is_kept_aside_unchanged_and_comes_back(store: Store):
    entry = await put(store, "s")
    await put(store, "t")
    paused = msgspec.structs.replace(entry, paused=True, runs=3, code="hash", next_ms=None)
    assert await store.timetable.write(QUEUE, [paused]) == [True]
    kept = await read(store)
    assert (await store.timetable.remains(QUEUE, ["s", "t", "none"])).entries == [], "they are there"
    other = await read(store, "t")
    gone = [Entry(id="s", rev=kept.rev, code="hash"), Entry(id="t", rev=other.rev)]
    assert await store.timetable.write(QUEUE, gone) == [True, True]
    assert await store.timetable.write(QUEUE, gone) == [True, True], "the same again, after a reply that got lost"
    assert (await store.timetable.read(QUEUE)).entries == []
    assert (await store.timetable.remains(QUEUE, ["s", "t"])).entries == [kept], (
        "what somebody has removed is not kept"
    )

    assert await store.timetable.write(QUEUE, [msgspec.structs.replace(kept, rev=0)]) == [True]
    again = await read(store)
    assert msgspec.structs.replace(again, rev=kept.rev, last_ms=kept.last_ms, last_job=kept.last_job) == kept
    assert (await store.timetable.remains(QUEUE, ["s"])).entries == []


async def test_a_deleted_schedule_is_gone_and_may_come_again(store: Store):
    entry = await put(store)
    gone = Entry(id="s", rev=entry.rev)
    assert await store.timetable.write(QUEUE, [msgspec.structs.replace(gone, rev=99)]) == [False]
    assert await store.timetable.write(QUEUE, [gone]) == [True]
    assert (await store.timetable.read(QUEUE)).entries == []
    assert (await store.timetable.due(QUEUE, 10)).entries == []
    assert await store.timetable.write(QUEUE, [gone]) == [True], "the same again, after a reply that got lost"
    again = await put(store)
    assert again.rev > entry.rev
    assert await store.timetable.write(QUEUE, [gone]) == [False], "it is another one that has this id now"


async def test_one_that_is_put_again_is_not_ticked_with_the_revision_before(store: Store):
    """However often that was written: its revision is none that there ever was."""
    await joined(store, "w")
    seen = [await put(store)]
    for _ in range(5):
        assert await store.timetable.write(QUEUE, [seen[-1]]) == [True]
        seen.append(await read(store))
    for _ in range(3):
        assert await store.timetable.write(QUEUE, [Entry(id="s", rev=(await read(store)).rev)]) == [True]
        await put(store)
        for before in seen:
            assert (await store.timetable.tick(QUEUE, [tick(before, "s@1")])).made == [None]
            assert await store.timetable.write(QUEUE, [before]) == [False]
        seen.append(await read(store))
    assert await take(store, "w") == []
    assert len({entry.rev for entry in seen}) == len(seen)


async def test_all_of_a_queue_are_read_the_next_to_tick_first(store: Store):
    await put(store, "later", due_in=LONG)
    await put(store, "paused", due_in=None)
    await put(store, "sooner", due_in=1000)
    assert [entry.id for entry in (await store.timetable.read(QUEUE)).entries] == ["sooner", "later", "paused"]
    assert (await store.timetable.read("another")).entries == []


# -- what is due ------------------------------------------------------------------------------------------------


async def test_those_due_are_returned_and_how_long_until_the_first_that_is_not(store: Store):
    await put(store, "paused", due_in=None)
    await put(store, "late", due_in=-10)
    await put(store, "later", due_in=-5)
    await put(store, "ahead", due_in=LONG)
    agenda = await store.timetable.due(QUEUE, 10)
    assert [entry.id for entry in agenda.entries] == ["late", "later"]
    assert agenda.next_tick_ms is not None
    assert LONG - 60_000 < agenda.next_tick_ms <= LONG
    assert [entry.id for entry in (await store.timetable.due(QUEUE, 1)).entries] == ["late"]
    assert [entry.id for entry in (await store.timetable.due(QUEUE, 9, 1)).entries] == ["later"]
    assert (await store.timetable.due(QUEUE, 9, 2)).entries == []


@pytest.mark.parametrize("due_in", [None, -5, LONG])
async def test_claims_and_renewals_tell_when_the_next_tick_is(store: Store, due_in: int | None):
    await joined(store, "w")
    if due_in is None:
        await put(store, "paused", due_in=None)
    else:
        await put(store, due_in=due_in)
    for next_tick_ms in ((await store.claim(QUEUE, "w", 1)).next_tick_ms, (await keep(store, "w")).next_tick_ms):
        if due_in is None:
            assert next_tick_ms is None
        else:
            assert next_tick_ms is not None
            assert max(0, due_in - 60_000) <= next_tick_ms <= max(0, due_in)
    assert (await store.claim(QUEUE, "w", 1)).next_due_ms is None, "a tick is no scheduled job"


async def test_a_tick_before_all_others_wakes_a_worker(store: Store, backend: Backend):
    await joined(store, "w")
    waiting = await backend.blocked(store, "w")
    await put(store, "first", due_in=LONG)
    (token,) = await waiting
    assert token.job_ids == ()
    assert (await store.claim(QUEUE, "w", 1, [token])).next_tick_ms is not None
    waiting = await backend.blocked(store, "w")
    await put(store, "later", due_in=2 * LONG)
    await put(store, "earlier", due_in=1000)
    assert len(await waiting) == 1


async def test_the_queues_that_have_schedules_are_returned(store: Store, backend: Backend):
    assert await store.timetable.queues() == []
    await put(store, "a")
    await put(store, "b")
    entry = Entry(id="s", definition=DEFINITION, envelope=CALL)
    assert await store.timetable.write("another", [entry]) == [True]
    other = await backend.open()
    assert await other.timetable.queues() == ["another", QUEUE]
    await delete(store, "a")
    assert await store.timetable.queues() == ["another", QUEUE]
    await delete(store, "b")
    assert await store.timetable.queues() == ["another"]


async def test_a_queue_is_noted_though_another_process_empties_it_meanwhile(
    redis_store: RedisStore, redis_backend: Backend, monkeypatch: pytest.MonkeyPatch
):
    other = await redis_backend.open()
    ask = redis_store._timetable._call_confirmed

    async def emptied_before(*args: Any) -> Any:
        await put(other, "theirs")
        await delete(other, "theirs")
        assert await other.timetable.queues() == [], "the note of this process has gone with it"
        return await ask(*args)

    monkeypatch.setattr(redis_store._timetable, "_call_confirmed", emptied_before)
    await put(redis_store, "mine")
    assert await other.timetable.queues() == [QUEUE]


async def test_a_queue_is_noted_though_it_is_found_empty_just_before_it_is_used(
    redis_store: RedisStore, redis_backend: Backend, monkeypatch: pytest.MonkeyPatch
):
    other = await redis_backend.open()
    await put(redis_store, "mine")
    remove = redis_store._timetable._register.remove

    async def used_before(queue: str) -> None:
        await put(other, "theirs")
        await remove(queue)
        assert await other.timetable.queues() == []

    monkeypatch.setattr(redis_store._timetable._register, "remove", used_before)
    await delete(redis_store, "mine")
    assert await other.timetable.queues() == [QUEUE]


# -- ticking ----------------------------------------------------------------------------------------------------


async def test_a_tick_makes_its_job_and_moves_the_schedule_on(store: Store):
    await joined(store, "w")
    entry = await put(store, due_in=-5, priority=Priority.HIGH)
    ticked = await store.timetable.tick(QUEUE, [tick(entry, "s@1")])
    assert ticked.made == [1]
    assert ticked.next_tick_ms is not None
    assert LONG - 60_000 < ticked.next_tick_ms < LONG
    moved = await read(store)
    assert (moved.next_ms, moved.runs, moved.last_ms, moved.last_job) == (
        (entry.next_ms or 0) + LONG,
        1,
        entry.next_ms,
        "s@1",
    )
    (job,) = await take(store, "w")
    assert (job.id, job.envelope) == ("s@1", CALL)
    assert (await info(store, "s@1")).priority is Priority.HIGH


async def test_of_many_workers_one_makes_the_tick(store: Store, backend: Backend):
    await joined(store, "w")
    entry = await put(store)
    others = [await backend.open() for _ in range(5)]
    replies = await asyncio.gather(*(each.timetable.tick(QUEUE, [tick(entry, "s@1")]) for each in others))
    assert sorted(str(reply.made) for reply in replies) == ["[1]", *["[None]"] * 4]
    assert ids(await take(store, "w")) == ["s@1"]


async def test_a_tick_by_an_old_revision_or_of_nothing_makes_nothing(store: Store):
    await joined(store, "w")
    entry = await put(store)
    assert await store.timetable.write(QUEUE, [msgspec.structs.replace(entry, paused=True, next_ms=None)]) == [
        True
    ]
    gone = Entry(id="gone", rev=1, next_ms=1)
    ticked = await store.timetable.tick(QUEUE, [tick(entry, "s@1"), tick(gone, "gone@1")])
    assert (ticked.made, ticked.next_tick_ms) == ([None, None], None)
    assert await take(store, "w") == []


async def test_a_job_that_is_there_already_is_not_made_again(store: Store):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1") == 1
    assert await make(store, "s@1") == 1
    assert ids(await take(store, "w")) == ["s@1"]


async def test_several_missed_ticks_are_made_in_their_order(store: Store):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1", "s@2", "s@3") == 3
    assert ids(await take(store, "w")) == ["s@1", "s@2", "s@3"]
    assert ((await read(store)).last_job, (await read(store)).runs) == ("s@3", 3)


async def test_a_tick_without_a_job_only_moves_on(store: Store):
    await joined(store, "w")
    await put(store)
    assert await make(store, next_in=None) == 0
    assert ((await read(store)).next_ms, (await read(store)).last_ms) == (None, None)
    assert await take(store, "w") == []


async def test_a_job_with_jitter_waits_until_it_is_due(store: Store):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1", late=LONG) == 1
    assert await state(store, "s@1") is JobState.SCHEDULED
    assert (await store.claim(QUEUE, "w", 1)).next_due_ms is not None


async def test_after_its_last_run_a_schedule_is_over(store: Store):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1", max_runs=3) == 1
    assert await make(store, "s@2", "s@3", "s@4", max_runs=3) == 2
    assert ((await read(store)).next_ms, (await read(store)).runs) == (None, 3)
    assert ids(await take(store, "w")) == ["s@1", "s@2", "s@3"]


# -- overlap ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [False, True])
async def test_skip_leaves_a_tick_out_while_the_job_before_it_has_not_ended(store: Store, ended: bool):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1", overlap=Overlap.SKIP) == 1
    if ended:
        await run(store, "s@1")
    assert await make(store, "s@2", overlap=Overlap.SKIP) == int(ended)
    assert ((await read(store)).runs, (await read(store)).skipped) == (1 + ended, 1 - ended)
    assert await state(store, "s@2") is (JobState.QUEUED if ended else None)


@pytest.mark.parametrize("overlap", [Overlap.ALLOW, Overlap.ONE])
async def test_jobs_of_one_tick_may_have_calls_of_their_own(store: Store, overlap: Overlap):
    await joined(store, "w")
    await put(store)
    own = b"\x93 a call \x00\xff" + b"x" * 70_000
    made = tick(await read(store), "s@1", "s@2", overlap=overlap)
    made = msgspec.structs.replace(made, envelopes=[own, b""])
    assert (await store.timetable.tick(QUEUE, [made])).made == [2]
    first = await take_one(store, "w")
    assert first.envelope == own
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    second = await take_one(store, "w")
    assert (first.id, second.id) == ("s@1", "s@2")
    assert second.envelope == (await read(store)).envelope


async def test_a_job_that_is_retried_has_not_ended(store: Store):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1", overlap=Overlap.SKIP) == 1
    assert await settle(store, "w", await take_one(store, "w"), Verb.RETRY, THREE, delay_ms=LONG)
    assert await make(store, "s@2", overlap=Overlap.SKIP) == 0


async def test_one_holds_a_job_back_until_the_one_before_it_has_ended(store: Store):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1", overlap=Overlap.ONE) == 1
    assert await make(store, "s@2", overlap=Overlap.ONE) == 1
    assert await make(store, "s@3", overlap=Overlap.ONE) == 0
    assert [await state(store, f"s@{n}") for n in (1, 2, 3)] == [JobState.QUEUED, JobState.WAITING, None]
    job = await take_one(store, "w")
    assert await take(store, "w") == []
    assert await settle(store, "w", job, Verb.SUCCEEDED, THREE)
    assert await state(store, "s@2") is JobState.QUEUED
    assert await make(store, "s@4", overlap=Overlap.ONE) == 1
    assert await state(store, "s@4") is JobState.WAITING
    await run(store, "s@2")
    await run(store, "s@4")
    assert await make(store, "s@5", overlap=Overlap.ONE) == 1
    assert await state(store, "s@5") is JobState.QUEUED


@pytest.mark.parametrize("ttl_ms", [0, LONG])
@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.FAILED, Verb.CANCELLED])
async def test_any_end_lets_the_next_one_go(store: Store, verb: Verb, ttl_ms: int):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1", "s@2", overlap=Overlap.ONE) == 2
    job = await take_one(store, "w")
    assert await settle(store, "w", job, verb, THREE, ttl_ms=ttl_ms)
    assert ids(await take(store, "w")) == ["s@2"]


@pytest.mark.parametrize("which", ["s@1", "s@2"])
async def test_either_may_be_cancelled(store: Store, which: str):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1", "s@2", overlap=Overlap.ONE) == 2
    await store.cancel(QUEUE, [which], REASON, LONG)
    assert await make(store, "s@3", overlap=Overlap.ONE) == 1
    assert await state(store, "s@3") is JobState.WAITING
    left = {"s@1", "s@2"} - {which}
    await run(store, *left)
    assert ids(await take(store, "w")) == ["s@3"]


async def test_a_deleted_schedule_lets_go_what_it_held_back(store: Store):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1", "s@2", overlap=Overlap.ONE) == 2
    assert await store.timetable.write(QUEUE, [Entry(id="s", rev=(await read(store)).rev)]) == [True]
    assert ids(await take(store, "w")) == ["s@1", "s@2"]


async def test_a_changed_policy_does_not_strand_what_was_held_back(store: Store):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1", "s@2", overlap=Overlap.ONE) == 2
    assert await make(store, "s@3") == 1
    assert ids(await take(store, "w")) == ["s@1", "s@2", "s@3"]


async def test_a_schedule_that_is_written_anew_still_knows_its_jobs(store: Store):
    await joined(store, "w")
    await put(store)
    assert await make(store, "s@1", overlap=Overlap.SKIP) == 1
    entry = await read(store)
    assert await store.timetable.write(QUEUE, [msgspec.structs.replace(entry, definition=b"new", runs=0)]) == [
        True
    ]
    assert (await read(store)).last_job == "s@1"
    assert await make(store, "s@2", overlap=Overlap.SKIP) == 0


async def test_the_tick_of_no_schedule_is_a_job_like_any_other(store: Store):
    """An `@` may be in anybody's job id."""
    await joined(store, "w")
    await put(store, "ada", due_in=None)
    for job_id in ("ada@example.com", "nobody@example.com"):
        assert await store.enqueue(QUEUE, [NewJob(job_id, CALL)]) == [True]
        await run(store, job_id)


async def test_an_empty_agenda(store: Store):
    agenda = await store.timetable.due(QUEUE, 10)
    assert agenda == Agenda(agenda.now_ms, None, [])
    assert agenda.now_ms > 1_700_000_000_000


# -- who is the leader -----------------------------------------------------------------------------------------


async def test_the_leadership_is_passed_on_to_a_worker_that_is_there(store: Store):
    heard = await Listener.on(store, worker_channel(app_of(store), QUEUE, "w"))
    await store.timetable.pass_leadership(QUEUE)
    await joined(store, "w")
    await store.timetable.pass_leadership(QUEUE)
    await put(store, "paused", due_in=None)
    await store.timetable.pass_leadership(QUEUE)
    await put(store, due_in=LONG)
    await store.timetable.pass_leadership(QUEUE)
    assert await heard.next() == b""
    await store.depart(QUEUE, "w")
    await store.timetable.pass_leadership(QUEUE)
    await joined(store, "other")
    await store.timetable.pass_leadership(QUEUE)
    assert heard.messages == []


def app_of(store: Store) -> str:
    assert isinstance(store, MemoryStore | RedisStore | ClusterStore)
    return store._app
