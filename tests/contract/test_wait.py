"""Waiting for outcomes: there already, published later, or no such job; nothing is missed."""

from typing import Any

import pytest
from msgspec.structs import replace

from aioq.jobs.job import JobState
from aioq.store.bounds import WAIT_LIMIT
from aioq.store.contract import NewJob, Settlement, Store, Verb
from aioq.store.outcomes import LATER, MISSING
from aioq.wire.messages import encode_envelope, encode_result
from tests.contract.kit import (
    BROKEN,
    CALL,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    Listener,
    eventually,
    joined,
    running,
    send,
    settle,
    state,
    take,
)

pytestmark = pytest.mark.anyio

LARGE = encode_result("shop.add", "x" * 66_000)
LARGE_CALL = encode_envelope("shop.add", ["x" * 2_000], {}, None)


async def test_nothing_to_wait_for(store: Store) -> None:
    assert await store.wait(QUEUE, "me", []) == []


async def test_one_reply_for_each_job(store: Store) -> None:
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker, "ended"), Verb.SUCCEEDED, THREE)
    await running(store, worker, "running")
    await send(store, "queued")
    await send(store, "scheduled", delay_ms=LONG)

    names = ["scheduled", "unknown", "ended", "running", "queued"]
    assert await store.wait(QUEUE, "me", names) == [None, MISSING, THREE, None, None]


async def test_a_retry_is_no_outcome(store: Store) -> None:
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker), Verb.RETRY, BROKEN)

    assert await store.wait(QUEUE, "me", ["job"]) == [None]


@pytest.mark.parametrize("how", ["alone", "together", "later", "own-id", "large", "again", "repeated"])
async def test_a_waiter_that_registered_with_the_send_is_notified(store: Store, how: str) -> None:
    listener, worker = await Listener.on(store, "me"), await joined(store, "w")
    job = NewJob("job", CALL if how != "large" else LARGE_CALL, waiter="me", nonce="n" if how == "own-id" else "")
    jobs = [job, NewJob("other", CALL)] if how == "together" else [job]
    await store.enqueue(QUEUE, jobs if how != "later" else [replace(job, delay_ms=50)])
    if how == "repeated":  # its reply got lost
        assert await store.enqueue(QUEUE, jobs, again=True) == [True]
    if how == "later":
        await eventually(lambda: promoted(store))
    (claimed,) = await take(store, worker, 1)
    if how == "again":
        assert await settle(store, worker, claimed, Verb.RETRY, BROKEN)
        (claimed,) = await take(store, worker, 1)
    assert await settle(store, worker, claimed, Verb.SUCCEEDED, THREE)

    assert await listener.result_message() == [("job", THREE)]
    assert await store.wait(QUEUE, "me", ["job"]) == [THREE]


async def promoted(store: Store) -> bool:
    return (await store.promote(QUEUE, 5)).count == 1


async def test_two_waiters_are_both_notified(store: Store) -> None:
    listeners, worker = [await Listener.on(store, name) for name in ("me", "you")], await joined(store, "w")
    await store.enqueue(QUEUE, [NewJob("job", CALL, waiter="me")])
    (claimed,) = await take(store, worker, 1)
    assert await store.wait(QUEUE, "you", ["job"]) == [None]
    assert await store.wait(QUEUE, "me", ["job"]) == [None]
    assert await settle(store, worker, claimed, Verb.SUCCEEDED, THREE)

    assert [await listener.result_message() for listener in listeners] == [[("job", THREE)]] * 2


def outcome_of(size: int) -> bytes:
    around = len(encode_result("", b"x" * 70_000)) - 70_000
    outcome = encode_result("", b"x" * (size - around))
    assert len(outcome) == size
    return outcome


async def ended(store: Store, *outcomes: bytes) -> list[str]:
    """Jobs with these outcomes."""
    worker, names = await joined(store, "w"), [f"job-{number}" for number in range(len(outcomes))]
    await send(store, *names)
    jobs = await take(store, worker, len(names))
    for job, outcome in zip(jobs, outcomes, strict=True):
        assert await settle(store, worker, job, Verb.SUCCEEDED, outcome)
    return names


async def test_a_reply_has_no_more_than_its_limit_of_outcomes(store: Store) -> None:
    third = outcome_of(WAIT_LIMIT // 3)
    names = await ended(store, third, third, third, THREE, third, THREE)
    await send(store, "queued")

    reply = await store.wait(QUEUE, "me", [*names, "unknown", "queued"])

    assert reply == [third, third, third, LATER, LATER, LATER, MISSING, None]
    assert await store.wait(QUEUE, "me", names[3:]) == [THREE, third, THREE]


async def test_a_reply_that_is_just_full(store: Store) -> None:
    half = outcome_of(WAIT_LIMIT // 2)
    one, two = await ended(store, half, half)

    assert await store.wait(QUEUE, "me", [one, two]) == [half, half]


async def test_one_outcome_comes_however_large_it_is(store: Store) -> None:
    giant = outcome_of(WAIT_LIMIT + 1)
    one, two, three = await ended(store, giant, giant, THREE)

    assert await store.wait(QUEUE, "me", [one, two, three]) == [giant, LATER, LATER]
    assert await store.wait(QUEUE, "me", [two, three]) == [giant, LATER]
    assert await store.wait(QUEUE, "me", [three, two]) == [THREE, LATER]


async def test_a_waiter_for_what_did_not_fit_is_still_notified_of_the_others(store: Store) -> None:
    giant = outcome_of(WAIT_LIMIT)
    names = await ended(store, giant, giant)
    listener = await Listener.on(store, "me")
    await send(store, "queued")
    assert await store.wait(QUEUE, "me", [*names, "queued"]) == [giant, LATER, None]

    await store.cancel(QUEUE, ["queued"], REASON, LONG)

    assert await listener.result_message() == [("queued", REASON)]


@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.FAILED, Verb.CANCELLED])
@pytest.mark.parametrize("ttl_ms", [0, LONG])
async def test_a_waiter_is_notified_of_the_outcome(
    store: Store, backend: Backend, verb: Verb, ttl_ms: int
) -> None:
    other = await backend.open()
    worker = await joined(other, "w")
    listener = await Listener.on(store, "me")
    await send(store, "jöb")
    assert await store.wait(QUEUE, "me", ["jöb"]) == [None]
    (job,) = await take(other, worker)

    await settle(other, worker, job, verb, BROKEN, ttl_ms=ttl_ms)

    assert await listener.result_message() == [("jöb", BROKEN)]


async def test_a_waiter_is_notified_of_a_cancellation(store: Store) -> None:
    listener = await Listener.on(store, "me")
    await send(store, "job")
    await store.wait(QUEUE, "me", ["job"])

    await store.cancel(QUEUE, ["job"], REASON, LONG)

    assert await listener.result_message() == [("job", REASON)]


async def test_one_settle_sends_one_result_message(store: Store) -> None:
    worker = await joined(store, "w")
    listener = await Listener.on(store, "me")
    await send(store, *"abc")
    await store.wait(QUEUE, "me", list("abc"))
    batch = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE) for job in await take(store, worker)]

    await store.settle(QUEUE, worker, batch)

    assert await listener.result_message() == [("a", THREE), ("b", THREE), ("c", THREE)]


async def test_who_waits_twice_is_notified_once(store: Store) -> None:
    worker = await joined(store, "w")
    listener, other = await Listener.on(store, "me"), await Listener.on(store, "other")
    job = await running(store, worker)
    for channel in ("me", "other", "me", "me"):
        assert await store.wait(QUEUE, channel, ["job"]) == [None]

    await settle(store, worker, job, Verb.SUCCEEDED, THREE)

    assert await listener.result_message() == [("job", THREE)]
    assert await other.result_message() == [("job", THREE)]
    await running(store, worker, "next")
    await store.wait(QUEUE, "me", ["next"])
    await store.cancel(QUEUE, ["next"], REASON, LONG)
    assert listener.messages == []


async def test_a_channel_that_is_part_of_anothers_name_is_a_channel_of_its_own(store: Store) -> None:
    await send(store, "job")
    long, short = await Listener.on(store, "waiter:12"), await Listener.on(store, "waiter:1")
    await store.wait(QUEUE, "waiter:12", ["job"])
    await store.wait(QUEUE, "waiter:1", ["job"])

    await store.cancel(QUEUE, ["job"], REASON, LONG)

    assert await long.result_message() == await short.result_message() == [("job", REASON)]


async def test_waiters_stay_registered_over_retries(store: Store) -> None:
    worker = await joined(store, "w")
    listener = await Listener.on(store, "me")
    job = await running(store, worker)
    await store.wait(QUEUE, "me", ["job"])
    await settle(store, worker, job, Verb.RETRY, BROKEN)
    (job,) = await take(store, worker)

    await settle(store, worker, job, Verb.SUCCEEDED, THREE)

    assert await listener.result_message() == [("job", THREE)]
    assert listener.messages == []


async def test_a_large_outcome_is_announced_but_not_sent(store: Store) -> None:
    worker = await joined(store, "w")
    listener = await Listener.on(store, "me")
    job = await running(store, worker)
    await store.wait(QUEUE, "me", ["job"])

    await settle(store, worker, job, Verb.SUCCEEDED, LARGE)

    assert await listener.result_message() == [("job", None)]
    assert await store.wait(QUEUE, "me", ["job"]) == [LARGE]


async def test_a_large_outcome_that_is_not_kept_is_sent(store: Store) -> None:
    worker = await joined(store, "w")
    listener = await Listener.on(store, "me")
    job = await running(store, worker)
    await store.wait(QUEUE, "me", ["job"])

    await settle(store, worker, job, Verb.SUCCEEDED, LARGE, ttl_ms=0)

    assert await listener.result_message() == [("job", LARGE)]


@pytest.mark.parametrize(("size", "sent"), [(65_536, True), (65_537, False)])
async def test_the_limit_of_what_is_sent(store: Store, size: int, sent: bool) -> None:
    around = len(encode_result("", b"x" * 65_000)) - 65_000
    outcome = encode_result("", b"x" * (size - around))
    assert len(outcome) == size
    worker = await joined(store, "w")
    listener = await Listener.on(store, "me")
    job = await running(store, worker)
    await store.wait(QUEUE, "me", ["job"])

    await settle(store, worker, job, Verb.SUCCEEDED, outcome)

    assert await listener.result_message() == [("job", outcome if sent else None)]


async def test_no_more_than_64_channels_are_notified(store: Store) -> None:
    await send(store, "job")
    for number in range(70):
        assert await store.wait(QUEUE, f"channel-{number}", ["job"]) == [None]
    last, first_too_many = await Listener.on(store, "channel-63"), await Listener.on(store, "channel-64")

    await store.cancel(QUEUE, ["job"], REASON, LONG)

    assert await last.result_message() == [("job", REASON)]
    # A message to the channel itself shows that nothing came before it.
    await send(store, "end")
    await store.wait(QUEUE, "channel-64", ["end"])
    await store.cancel(QUEUE, ["end"], REASON, LONG)
    assert await first_too_many.result_message() == [("end", REASON)]


async def test_a_waiter_that_left_is_not_notified(store: Store) -> None:
    left, stays = await Listener.on(store, "left"), await Listener.on(store, "stays")
    await send(store, "job")
    await store.wait(QUEUE, "left", ["job"])
    await store.wait(QUEUE, "stays", ["job"])

    await store.inbox.leave("left")
    await store.inbox.leave("never")
    await store.cancel(QUEUE, ["job"], REASON, LONG)

    assert await stays.result_message() == [("job", REASON)]
    assert left.messages == []


async def test_a_channel_can_be_listened_to_again(store: Store) -> None:
    await Listener.on(store, "me")
    await store.inbox.leave("me")
    listener = await Listener.on(store, "me")
    await send(store, "job")
    await store.wait(QUEUE, "me", ["job"])

    await store.cancel(QUEUE, ["job"], REASON, LONG)

    assert await listener.result_message() == [("job", REASON)]


async def test_a_listener_is_called_after_the_verb_not_within(store: Store) -> None:
    """Callbacks may use the store's state; they must not find a settle half done."""
    worker = await joined(store, "w")
    job = await running(store, worker)
    returned: list[bool] = []
    seen: list[bool] = []
    done = Listener()

    def on_message(message: bytes) -> None:
        seen.append(bool(returned))
        done._take(message)

    await store.inbox.listen("me", on_message, lambda: None)
    await store.wait(QUEUE, "me", ["job"])
    batch = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, LONG)]
    if type(store).__name__ == "MemoryStore":
        # Without a network in between the order is certain.
        coroutine: Any = store.settle(QUEUE, worker, batch)
        with pytest.raises(StopIteration):
            coroutine.send(None)
        assert seen == []
    else:
        await store.settle(QUEUE, worker, batch)

    assert await done.result_message() == [("job", THREE)]
    assert await state(store) is JobState.SUCCEEDED
