"""Pages and counts of very many jobs: what they ask is bounded, and at full size they come in time."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from aioq import App
from aioq.app import internals_of
from aioq.store.redis.keys import base_key
from tests.databases import Database

pytestmark = pytest.mark.anyio

WITHIN_MS = 50
"""The longest time of a first page, of a count, and of each script."""

STATES = ("failed", "scheduled", "queued", "entries of one job")


@pytest.fixture
def client(server: Database) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


def fill(client: redis.Redis, base: str, state: str, count: int) -> None:
    """Put jobs into a queue as the scripts do, thousands with one command."""
    made = client.register_script(
        """
        local state, first, last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
        local call = cmsgpack.pack({2, 'shop.charge', {7}})
        local texts, members, ids = {}, {}, {}
        for n = first, last do
          local id, job = string.format('j%09d', n), {call, 1790000000000 + n}
          if state == 'failed' then
            local outcome = cmsgpack.pack({2, 1, 'shop.charge', {'TimeoutError', 'late', string.rep('x', 1500)}})
            job = {call, 1790000000000 + n, false, false, 'failed', 'w', 1, 1790000000000000 + n, outcome, n}
          elseif state == 'scheduled' then
            job = {call, 1790000000000 + n, false, false, 'scheduled'}
          end
          texts[#texts + 1], texts[#texts + 2] = KEYS[1] .. ':job:' .. id, cmsgpack.pack(job)
          -- Half of all have the same time.
          members[#members + 1], members[#members + 2] = n % 2 == 0 and 4000000000000 or 4000000000000 + n, id
          ids[#ids + 1] = string.sub(id, 2)
        end
        redis.call('MSET', unpack(texts))
        if state == 'failed' or state == 'scheduled' then
          redis.call('ZADD', KEYS[1] .. (state == 'failed' and ':dead' or ':scheduled'), unpack(members))
        elseif state == 'queued' then
          -- As many in each entry: so an estimate by some entries is the number.
          for start = 1, #ids, 50 do
            local some = table.concat(ids, '', start, math.min(start + 49, #ids))
            redis.call('XADD', KEYS[1] .. ':normal', '*', 'prefix', 'j', 'width', 9, 'ids', some)
          end
        else
          for _, id in ipairs(ids) do redis.call('XADD', KEYS[1] .. ':normal', '*', 'job', 'j' .. id) end
        end
        """
    )
    for first in range(0, count, 1_000):
        made(keys=[base], args=[state, first, min(first + 1_000, count) - 1])


@pytest.mark.alone  # SLOWLOG has a script for which the server got no processor, too
@pytest.mark.scale(minutes=4)
@pytest.mark.parametrize("state", STATES)
async def test_a_page_and_a_count_of_very_many_jobs(
    server: Database, client: redis.Redis, app_name: str, state: str, size: Any
) -> None:
    count: int = size(3_000, 1_000_000)
    fill(client, base_key(app_name, "default"), state, count)
    wanted = "queued" if state == "entries of one job" else state
    app = App(app_name, url=server.url)
    async with app:
        await app.jobs().first()  # the connection, and the library
        client.config_set("slowlog-log-slower-than", WITHIN_MS * 1000)
        client.slowlog_reset()
        taken: list[float] = []
        for order in ("newest", "oldest"):
            query = app.jobs(state=wanted, order=order)
            found = await timed(taken, query.page())
            assert len(found.jobs) == 100
            assert found.looked_at == 100, "no more than are shown"
            further = await timed(taken, query.page(found.cursor))
            assert not {job.id for job in found.jobs} & {job.id for job in further.jobs}
            counted = await timed(taken, query.count())
            assert (counted.value, counted.exact) == (count, wanted != "queued")
        filtered = await app.jobs(state=wanted, arguments={0: 8}).page()
        assert (filtered.jobs, filtered.looked_at) == ([], 1_000)
        assert filtered.cursor is not None
        if wanted == "queued":
            for number, ahead in ((500, 500), (count - 1, None)):
                why = await timed(taken, app.handle(f"j{number:09}", queue="default").why())
                place = why.reasons[-1]
                assert (place.code, place.exact) == ("in_line", ahead is not None)
                assert place.ahead == ahead if ahead is not None else (place.ahead or 0) >= 999
        slow = client.slowlog_get()
        assert not slow, slow
        if count >= 1_000_000:
            assert max(taken) < WITHIN_MS, [f"{each:.1f} ms" for each in taken]


@pytest.mark.alone
@pytest.mark.scale(minutes=4)
async def test_leftover_entries_are_passed_in_bounded_steps(
    server: Database, client: redis.Redis, app_name: str, size: Any
) -> None:
    count: int = size(3_000, 300_000)
    base = base_key(app_name, "default")
    fill(client, base, "queued", count)
    for first in range(0, count, 1_000):
        client.unlink(*(f"{base}:job:j{n:09}" for n in range(first, min(first + 1_000, count))))
    app = App(app_name, url=server.url)
    async with app:
        await app.jobs().first()
        client.config_set("slowlog-log-slower-than", WITHIN_MS * 1000)
        client.slowlog_reset()
        page = await app.jobs(state="queued").page()
        assert page.jobs == []
        assert 1_000 <= page.looked_at < 1_250
        assert await app.jobs(state="queued").first() is None
        assert not client.slowlog_get()


async def timed(taken: list[float], asked: Any) -> Any:
    before = time.perf_counter()
    answer = await asked
    taken.append((time.perf_counter() - before) * 1000)
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
