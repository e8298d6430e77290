"""How a process learns how many shards each queue has."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from aioq import App, Queue, SendError
from aioq.app import internals_of
from aioq.errors import ServerRejectedError, ServerUnavailableError
from aioq.jobs.options import Options
from aioq.jobs.shards import shard_names, shard_of
from aioq.producer import shards as module
from aioq.producer.shards import QueueShards, Shards, ShardTable
from aioq.store.memory.shards import MemoryShardRegister
from aioq.store.shards import StoredShards
from tests.unit.kit import memory_store

pytestmark = pytest.mark.anyio

NOTHING = Options()


class Register(MemoryShardRegister):
    """A register that fails as often as the test says."""

    def __init__(self) -> None:
        super().__init__(memory_store()._locked)
        self.reads = 0
        self.errors: list[Exception] = []

    async def read(self) -> dict[str, StoredShards]:
        self.reads += 1
        if self.errors:
            raise self.errors.pop(0)
        return await super().read()


@pytest.fixture
def register() -> Register:
    return Register()


@pytest.fixture
async def opened(register: Register) -> AsyncIterator[Callable[..., Shards]]:
    every: list[Shards] = []

    def open_one(declared: Mapping[str, Queue] | None = None) -> Shards:
        every.append(Shards(register, declared or {}, set()))
        return every[-1]

    yield open_one
    for each in every:
        await each.close()


# -- which shard ------------------------------------------------------------------------------------------------


def test_jobs_without_a_key_go_to_the_shards_in_turn():
    shards = QueueShards("mail", 3)
    found = [shards.shard_for(NOTHING) for _ in range(6)]
    assert found[:3] == found[3:]
    assert sorted(map(str, found[:3])) == sorted(shard_names("mail", 3))


def test_processes_do_not_all_begin_with_the_same_shard():
    assert len({QueueShards("mail", 8).shard_for(NOTHING) for _ in range(100)}) > 1


def test_a_key_decides_and_else_an_id_of_the_callers_own():
    shards = QueueShards("mail", 8)
    names = shard_names("mail", 8)
    assert shards.shard_for(Options(shard_key="eu")) == names[shard_of("eu", 8)]
    assert shards.shard_for(Options(job_id="order-7")) == names[shard_of("order-7", 8)]
    assert shards.shard_for(Options(job_id="order-7", shard_key="eu")) == names[shard_of("eu", 8)]


def test_shards_that_are_drained_get_nothing_new():
    shards = QueueShards("mail", 2, served=8)
    assert len(shards.names) == 8
    assert {shards.shard_for(NOTHING) for _ in range(20)} == {"mail", "mail#1"}
    assert {shards.shard_for(Options(shard_key=str(key))) for key in range(50)} == {"mail", "mail#1"}


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (2, 2), (3, 3), (10, 3)])
def test_a_few_jobs_need_no_more_shards_than_they_are(most: int, expected: int):
    found = QueueShards("mail", 3, served=5).several(most)
    assert len(found) == len(set(found)) == expected
    assert set(found) <= set(shard_names("mail", 3))


def test_what_is_not_known_yet_is_waited_for_only_where_it_matters():
    assert QueueShards("mail", 0).shard_for(NOTHING) == "mail", "its first shard is served in any case"
    assert QueueShards("mail", 0).shard_for(Options(job_id="a")) is None, "another process may have sent that id"
    assert QueueShards("mail", 0).shard_for(Options(shard_key="a")) is None
    assert QueueShards("mail", 0, declared=True).shard_for(NOTHING) is None
    assert ShardTable()["mail"].number == 0


# -- the server's number ----------------------------------------------------------------------------------------


async def test_a_queue_of_which_the_server_has_no_number_gets_that_of_the_code(
    register: Register, opened: Callable[..., Shards]
):
    shards = opened({"mail": Queue(shards=4), "one": Queue(shards=1), "bulk": Queue()})
    await shards.known()
    assert await register.read() == {"mail": StoredShards(4)}, "and none where that is one anyway"
    assert {queue: each.number for queue, each in shards.table.items()} == {"mail": 4, "one": 1}
    assert shards.table["other"].number == 1


async def test_another_number_is_adopted_with_one_warning(
    register: Register, opened: Callable[..., Shards], caplog: pytest.LogCaptureFixture
):
    await register.change("mail", 8, None)
    shards = opened({"mail": Queue(shards=4)})
    await shards.known()
    await shards.read()
    assert shards.table["mail"].number == 8
    assert await register.read() == {"mail": StoredShards(8)}
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "queue mail: this App declares 4 shards and the server has 8, which are used; declare 8, or change the "
        "server's number: aioq shards MODULE:APP mail 4"
    ]


@pytest.mark.parametrize("declared", [{}, {"mail": Queue()}])
async def test_code_that_gives_no_number_takes_the_servers_silently(
    declared: Mapping[str, Queue],
    register: Register,
    opened: Callable[..., Shards],
    caplog: pytest.LogCaptureFixture,
):
    await register.change("mail", 8, None)
    shards = opened(declared)
    await shards.known()
    assert shards.table["mail"].number == 8
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_change_is_noticed_by_itself(
    register: Register, opened: Callable[..., Shards], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "READ_EVERY", 0.01)
    shards = opened({"mail": Queue(shards=4)})
    await shards.known()
    changed = asyncio.Event()
    shards.on_change.append(changed.set)
    await register.change("mail", 6, 4)
    async with asyncio.timeout(5):
        await changed.wait()
    assert (shards.table["mail"].number, len(shards.table["mail"].names)) == (6, 6)


async def test_a_process_that_knows_no_sharded_queue_asks_less_often(
    register: Register, opened: Callable[..., Shards], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "READ_EVERY", 0.001)
    shards = opened()
    await shards.known()
    await asyncio.sleep(0.05)
    assert register.reads == 1


async def test_what_was_served_once_is_served_on(register: Register, opened: Callable[..., Shards]):
    await register.change("mail", 8, None)
    shards = opened()
    await shards.known()
    await register.change("mail", 2, 8)
    await register.forget("mail", [8])
    await shards.read()
    assert (shards.table["mail"].number, len(shards.table["mail"].names)) == (2, 8)


async def test_a_server_that_is_away_is_asked_again(register: Register, opened: Callable[..., Shards]):
    register.errors = [ServerUnavailableError("away")] * 3
    await register.change("mail", 2, None)
    shards = opened()
    with pytest.raises(ServerUnavailableError):
        await shards.read()
    await shards.known()
    assert (shards.table["mail"].number, register.reads) == (2, 4)


async def test_the_first_read_is_tried_again_by_itself(
    register: Register, opened: Callable[..., Shards], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "RETRY_AFTER", 0.01)
    register.errors = [ServerUnavailableError("away")]
    shards = opened()
    changed = asyncio.Event()
    await register.change("mail", 2, None)
    shards.on_change.append(changed.set)
    shards.start()
    async with asyncio.timeout(5):
        await changed.wait()
    assert shards.table["mail"].number == 2


async def test_a_read_that_follows_another_at_once_leaves_no_timer_after_the_close(
    register: Register, opened: Callable[..., Shards], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a timer began a read after the close, which failed with a traceback in the log."""
    loop, timers = asyncio.get_running_loop(), list[asyncio.TimerHandle]()
    call_later = loop.call_later

    def noted(*args: Any) -> asyncio.TimerHandle:
        timers.append(call_later(*args))
        return timers[-1]

    monkeypatch.setattr(loop, "call_later", noted)
    shards = opened()
    shards.start()
    await asyncio.sleep(0)  # the first read has ended, and what plans the next one has not run yet
    await shards.read()
    await shards.close()

    assert register.reads == 2
    assert len(timers) == 1
    assert timers[0].cancelled()


async def test_where_the_key_may_not_be_used_the_numbers_of_the_code_count(
    register: Register, opened: Callable[..., Shards], caplog: pytest.LogCaptureFixture
):
    register.errors = [ServerRejectedError("redis://x refused a command to this user") for _ in range(2)]
    shards = opened({"mail": Queue(shards=4)})
    await shards.known()
    await shards.read()
    assert shards.table["mail"].number == 4
    assert [record.message for record in caplog.records] == [
        "redis://x refused a command to this user; the numbers of shards are those that the App declares"
    ]


async def test_shards_that_are_declared_while_their_queue_is_paused_are_paused_too(
    monkeypatch: pytest.MonkeyPatch,
):
    store = memory_store()
    pauses, change = store.operating.pauses, store.shards.change

    async def paused_before(queue: str, number: int, before: int | None) -> None:
        await pauses.pause(queue, [])
        await change(queue, number, before)

    monkeypatch.setattr(store.shards, "change", paused_before)
    shards = Shards(store.shards, {"mail": Queue(shards=3)}, set(), pauses)
    await shards.read()
    await shards.close()
    assert all([(await pauses.read(shard)).whole for shard in shard_names("mail", 3)])


# -- sends while the number is not known ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"job_id": "mine"}, {"shard_key": "eu"}])
async def test_a_send_to_a_declared_queue_waits_for_its_number(options: Any):
    app = App("shop", url="redis://127.0.0.1:1", send_timeout=0.2, queues={"mail": Queue(shards=4)})
    task = app.by_name("add").options(queue="mail", **options)
    with pytest.raises(
        SendError, match=r"was not sent after 0.2 s: .* how many shards queue 'mail' has"
    ) as caught:
        await task.send()
    assert caught.value.job_ids == ((options["job_id"],) if "job_id" in options else ())
    with pytest.raises(SendError, match="was not sent after"):
        await task.send_many([(), ()])
    await app.aclose()


async def test_the_number_of_jobs_of_a_shard_in_a_large_send_many():
    app = App("shop", queues={"mail": Queue(shards=4)})

    @app.task(queue="mail")
    async def add(x: int) -> int:
        return x

    async with app.test():
        shards = (await internals_of(app).shards()).table["mail"]
        handles = await add.send_many([(number,) for number in range(4_003)])
        assert len({handle.id for handle in handles}) == 4_003
        assert [await handle for handle in handles[::400]] == list(range(4_003))[::400]
        counts = [sum(handle._queue == name for handle in handles) for name in shards.names]
        assert sorted(counts) == [1_000, 1_001, 1_001, 1_001]
