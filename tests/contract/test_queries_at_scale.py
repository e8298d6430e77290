"""Pages and counts of very many jobs: what they ask is bounded, and at full size they come in time."""

import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import redis

from aioq import App
from aioq.app import internals_of
from aioq.jobs.shards import shard_names
from aioq.store.redis.keys import base_key
from aioq.store.story import MOST_AHEAD
from tests.clusters import Cluster, Node
from tests.contract.slow_scripts import WITHIN_MS, SlowScripts
from tests.databases import Database

pytestmark = pytest.mark.anyio

T = TypeVar("T")

STATES = ("failed", "scheduled", "queued", "entries of one job")

FULL = 1_000_000
"""The full size. Its times are those of a machine that has nothing else to do."""

TRIES = 3
"""How often a question is asked until its answer comes in time: others may have had the processors."""

SHARDS = 4
"""How many shards the queue has in a cluster."""


@dataclass(frozen=True, slots=True)
class Filled:
    """Where the jobs are.

    Attributes:
        url: what an App connects to.
        queue: the queue.
        shards: its shards, with a client of the server that has each; as many jobs are in each.
    """

    url: str
    queue: str
    shards: Sequence[tuple[str, redis.Redis]]

    def fill(self, app_name: str, state: str, count: int) -> None:
        """Put as many jobs into each shard: the first ones into the first."""
        each = count // len(self.shards)
        for number, (shard, client) in enumerate(self.shards):
            fill(client, base_key(app_name, shard), state, number * each, (number + 1) * each)

    def watch(self, count: int) -> SlowScripts:
        """Have the servers note scripts that take too long, from now on."""
        return SlowScripts([client for _, client in self.shards], quiet=count >= FULL)


@pytest.fixture
def client(server: Database) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


@pytest.fixture
def on_one_server(server: Database, client: redis.Redis) -> Filled:
    return Filled(server.url, "default", [("default", client)])


@pytest.fixture
def on_a_cluster(cluster: Cluster, app_name: str) -> Iterator[Filled]:
    """A queue with shards on all three nodes."""

    def nodes_of(queue: str) -> list[Node]:
        return [cluster.node_of(cluster.slot_of(base_key(app_name, each))) for each in shard_names(queue, SHARDS)]

    queue = next(name for name in map("q{}".format, range(100)) if len({n.id for n in nodes_of(name)}) == 3)
    with ExitStack() as clients:
        found = [clients.enter_context(node.client()) for node in nodes_of(queue)]
        yield Filled(cluster.url, queue, list(zip(shard_names(queue, SHARDS), found, strict=True)))


def fill(client: redis.Redis, base: str, state: str, begin: int, end: int) -> None:
    """Put jobs into a queue as the scripts do, thousands with one command."""
    made = client.register_script(
        """
        local state, first, last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
        local call, sent = cmsgpack.pack({2, 'shop.charge', {7}}), 1790000000000
        local texts, members, ids = {}, {}, {}
        for n = first, last do
          local id, job = string.format('j%09d', n), {call, sent + n}
          if state == 'failed' then
            local outcome = cmsgpack.pack({2, 1, 'shop.charge', {'TimeoutError', 'late', string.rep('x', 1500)}})
            job = {call, sent + n, false, false, 'failed', 'w', 1, (sent + n) * 1000, outcome, sent + n}
          elseif state == 'scheduled' then
            job = {call, sent + n, false, false, 'scheduled'}
          end
          texts[#texts + 1], texts[#texts + 2] = KEYS[1] .. ':job:' .. id, cmsgpack.pack(job)
          -- Half of all have the same time.
          members[#members + 1], members[#members + 2] = n % 2 == 0 and 4000000000000 or 4000000000000 + n, id
          ids[#ids + 1] = string.sub(id, 2)
        end
        redis.call('MSET', unpack(texts))
        local function add(n, ...)
          redis.call('XADD', KEYS[1] .. ':normal', string.format('%.0f-0', sent + n), ...)
        end
        if state == 'failed' or state == 'scheduled' then
          redis.call('ZADD', KEYS[1] .. (state == 'failed' and ':dead' or ':scheduled'), unpack(members))
        elseif state == 'queued' then
          -- As many in each entry: so an estimate by some entries is the number.
          for start = 1, #ids, 50 do
            local some = table.concat(ids, '', start, math.min(start + 49, #ids))
            add(first + start - 1, 'prefix', 'j', 'width', 9, 'ids', some)
          end
        else
          for i, id in ipairs(ids) do add(first + i - 1, 'job', 'j' .. id) end
        end
        """
    )
    for first in range(begin, end, 1_000):
        made(keys=[base], args=[state, first, min(first + 1_000, end) - 1])
    if state not in {"failed", "scheduled"}:
        client.xgroup_create(f"{base}:normal", "aioq", id="0")


async def test_a_script_that_takes_too_long_is_found(client: redis.Redis) -> None:
    scripts = SlowScripts([client], quiet=False)
    client.eval("return 1", 0)
    assert not scripts.found()
    client.eval("for i = 1, 50000000 do end", 0)
    (found,) = scripts.found()
    assert "EVAL" in found.upper()


@pytest.mark.alone  # SLOWLOG has a script for which the server got no processor, too
@pytest.mark.scale(minutes=4)
@pytest.mark.parametrize("state", STATES)
async def test_a_page_and_a_count_of_very_many_jobs(
    on_one_server: Filled, app_name: str, state: str, size: Any
) -> None:
    count: int = size(3_000, FULL)
    await ask_for_pages(on_one_server, App(app_name, url=on_one_server.url), state, count)


@pytest.mark.alone
@pytest.mark.scale(minutes=4)
@pytest.mark.parametrize("state", STATES)
async def test_a_page_and_a_count_of_very_many_jobs_of_a_cluster(
    on_a_cluster: Filled, app_name: str, state: str, size: Any
) -> None:
    count: int = size(6_000, FULL)
    queues: Any = {on_a_cluster.queue: {"shards": SHARDS}}
    await ask_for_pages(on_a_cluster, App(app_name, url=on_a_cluster.url, queues=queues), state, count)


async def ask_for_pages(filled: Filled, app: App, state: str, count: int) -> None:
    filled.fill(app.name, state, count)
    wanted = "queued" if state == "entries of one job" else state
    async with app:
        await app.jobs().first()  # the connections, and the library
        scripts = filled.watch(count)
        taken: list[tuple[float, str]] = []
        for order in ("newest", "oldest"):
            everything = await timed(taken, "first page of all", app.jobs(order=order).page)
            assert len(everything.jobs) == 100
            query = app.jobs(state=wanted, order=order)
            found = await timed(taken, "first page", query.page)
            assert len(found.jobs) == 100
            assert found.looked_at == 100, "no more than are shown"
            assert [job.id for job in found.jobs] == [job.id for job in everything.jobs]
            further = await timed(taken, "next page", lambda q=query, f=found: q.page(f.cursor))
            assert not {job.id for job in found.jobs} & {job.id for job in further.jobs}
            counted = await timed(taken, "count", query.count)
            assert (counted.value, counted.exact) == (count, wanted != "queued")
            assert (await timed(taken, "count of all", app.jobs(order=order).count)).value == count
        filtered = await app.jobs(state=wanted, arguments={0: 8}).page()
        assert (filtered.jobs, filtered.looked_at) == ([], 1_000)
        assert filtered.cursor is not None
        await ask_why(filled, app, wanted, count, taken)
        assert not scripts.found()
        if count >= FULL:
            assert max(taken)[0] < WITHIN_MS, [f"{what} {each:.1f} ms" for each, what in taken]
            print(f"{state}: {longest(taken)}")  # noqa: T201 - the figures of docs/performance.md


async def ask_why(filled: Filled, app: App, wanted: str, count: int, taken: list[tuple[float, str]]) -> None:
    """Ask about jobs at several places, and about the last one."""
    each = count // len(filled.shards)
    for number in (500, count * 5 // 8, count - 1):
        why = await timed(taken, "why", app.handle(f"j{number:09}", queue=filled.queue).why)
        assert why.state == wanted
        place, ahead = why.reasons[-1], number % each
        if wanted == "queued":
            assert place.code == "in_line"
            assert place.exact == (ahead < MOST_AHEAD)
            assert place.ahead is not None
            # By time, of which an entry has one for all of its jobs.
            assert abs(place.ahead - ahead) <= (0 if place.exact else max(100, ahead // 50))


def longest(taken: Sequence[tuple[float, str]]) -> str:
    """The longest time of each question, in ms."""
    most = {what: max(ms for ms, each in taken if each == what) for _, what in taken}
    return ", ".join(f"{what} {ms:.1f} ms" for what, ms in most.items())


@pytest.mark.alone
@pytest.mark.scale(minutes=4)
async def test_leftover_entries_are_passed_in_bounded_steps(
    on_one_server: Filled, client: redis.Redis, app_name: str, size: Any
) -> None:
    count: int = size(3_000, 300_000)
    base = base_key(app_name, "default")
    fill(client, base, "queued", 0, count)
    for first in range(0, count, 1_000):
        client.unlink(*(f"{base}:job:j{n:09}" for n in range(first, min(first + 1_000, count))))
    app = App(app_name, url=on_one_server.url)
    async with app:
        await app.jobs().first()
        scripts = on_one_server.watch(count)
        page = await app.jobs(state="queued").page()
        assert page.jobs == []
        assert 1_000 <= page.looked_at < 1_250
        assert await app.jobs(state="queued").first() is None
        assert not scripts.found()


async def timed(taken: list[tuple[float, str]], what: str, ask: Callable[[], Awaitable[T]]) -> T:
    """Ask a question, and note how long the answer took."""
    shortest, tries = math.inf, 0
    while True:
        before = time.perf_counter()
        answer = await ask()
        shortest, tries = min(shortest, (time.perf_counter() - before) * 1000), tries + 1
        if shortest < WITHIN_MS or tries == TRIES:
            taken.append((shortest, what))
            return answer


async def test_the_store_is_asked_little(server: Database, app_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first page of one queue and state is two scripts; one of all states reads a few jobs of each."""
    app = App(app_name, url=server.url)
    task = app.by_name("shop.charge").options(delay=60)
    async with app:
        await task.send_many([(n,) for n in range(150)])
        store: Any = await internals_of(app).store()
        asked: list[str] = []
        call = store.operating._call

        async def noted(name: str, *args: Any) -> Any:
            asked.append(name)
            return await call(name, *args)

        monkeypatch.setattr(store.operating, "_call", noted)
        await app.jobs(state="scheduled").page()
        assert asked == ["list_sorted", "list_records"]
        asked.clear()
        await app.jobs(state="scheduled").count()
        assert asked == ["count"]
        asked.clear()
        await app.jobs().page(size=10)
        lists = ["list_lane"] * 3 + ["list_sorted"] * 3 + ["list_waiting", "workers"]
        assert sorted(each for each in asked if each != "list_records") == sorted(lists)
