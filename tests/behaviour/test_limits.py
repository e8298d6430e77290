"""Limits by key as users meet them: what may be declared, how jobs wait, and who sends them."""

import asyncio
from typing import Any

import pytest

from aioq import App, ArgumentError, ConfigError, Fair, JobState, Limit, Queue
from tests.contract.kit import eventually

pytestmark = pytest.mark.anyio


class Ledger:
    """How many jobs of each key run, and the most that ever did."""

    def __init__(self) -> None:
        self.runs: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.order: list[str] = []
        self.go_on = asyncio.Event()
        self.changed = asyncio.Condition()

    async def run(self, key: str, name: str = "") -> None:
        self.runs[key] = self.runs.get(key, 0) + 1
        self.most[key] = max(self.most.get(key, 0), self.runs[key])
        self.order.append(name or key)
        async with self.changed:
            self.changed.notify_all()
        await self.go_on.wait()
        self.runs[key] -= 1

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: len(self.order) >= count)


async def test_one_job_of_a_customer_runs_at_a_time() -> None:
    app, ledger = App("shop"), Ledger()

    @app.task(limits=[Limit("customer", by="customer_id", concurrency=1)])
    async def sync(customer_id: int, step: int) -> None:
        await ledger.run(str(customer_id))

    async with app.test() as session:
        for step in range(3):
            for customer in (7, 8):
                await sync.send(customer, step=step)
        await ledger.until(2)
        assert (await app.jobs(state="waiting").count()).value == 4
        ledger.go_on.set()
        await session.drain()
    assert ledger.most == {"7": 1, "8": 1}
    assert len(ledger.order) == 6


async def test_jobs_that_are_sent_together_obey_it_too() -> None:
    app, ledger = App("shop"), Ledger()

    @app.task(limits=[Limit("customer", by="customer_id", concurrency=2)])
    async def sync(customer_id: int) -> None:
        await ledger.run(str(customer_id))

    async with app.test() as session:
        await sync.send_many([(7,)] * 5)
        await app.send_many([sync.call(7), sync.call(customer_id=7)])
        await ledger.until(2)
        ledger.go_on.set()
        await session.drain()
    assert ledger.most == {"7": 2}
    assert len(ledger.order) == 7


async def test_a_job_that_was_sent_by_its_name_obeys_it_too() -> None:
    app, sender, ledger = App("shop"), App("shop"), Ledger()

    @app.task(name="sync", limits=[Limit("customer", by="customer_id", concurrency=1)])
    async def sync(customer_id: int) -> None:
        await ledger.run(str(customer_id))

    async with app.test() as session:
        first = await sync.send(7)
        await ledger.until(1)
        # As by a process that does not import the task.
        job = sender._internals.sender.prepare(sender.by_name("sync").call(7))[1]
        assert job.extra is None
        store = await app._internals.store()
        await store.enqueue("default", [job])
        other = app.handle(job.id)

        async def waits() -> bool:
            return await other.status() is JobState.WAITING

        await eventually(waits)
        ledger.go_on.set()
        await session.drain()
        assert await first.status() is JobState.SUCCEEDED
        assert await other.status() is JobState.SUCCEEDED
    assert ledger.most == {"7": 1}


async def test_ticks_of_a_schedule_obey_it() -> None:
    app, ledger = App("shop"), Ledger()

    @app.task(limits=[Limit("report", concurrency=1)])
    async def report() -> None:
        await ledger.run("report")

    app.schedule("report", report.call(), every=1)
    async with app.test() as session:
        advancing = asyncio.create_task(session.advance(3))
        await ledger.until(1)
        ledger.go_on.set()
        await advancing
        await session.drain()
    assert ledger.most == {"report": 1}
    assert len(ledger.order) >= 2


async def test_a_rate_lets_jobs_start_at_their_times() -> None:
    app = App("shop")
    started: list[int] = []

    async with app.test() as session:

        @app.task(limits=[Limit("api", rate=10, per=1)])
        async def call() -> None:
            started.append(session.clock.now_ms())

        begun = session.clock.now_ms()
        await call.send_many([()] * 5)
        await session.drain()
        assert [each - begun for each in started] == [0, 100, 200, 300, 400]


async def test_a_burst_and_costs() -> None:
    app = App("shop")
    started: list[tuple[int, int]] = []

    async with app.test() as session:

        @app.task(limits=[Limit("tokens", rate=100, per=1, burst=100, cost="tokens")])
        async def ask(tokens: int) -> None:
            started.append((session.clock.now_ms(), tokens))

        begun = session.clock.now_ms()
        for tokens in (60, 40, 50, 100):
            await ask.send(tokens)
        await session.drain()
        assert [(at - begun, tokens) for at, tokens in started] == [(0, 60), (0, 40), (500, 50), (1500, 100)]
        with pytest.raises(ArgumentError, match=r"Limit\('tokens'\): cost: tokens=101: more than burst=100"):
            await ask.send(101)


async def test_the_newest_call_wins() -> None:
    app, begun = App("shop"), asyncio.Event()

    @app.task(limits=[Limit("preview", by="doc", concurrency=1, on_limit="cancel_oldest")])
    async def preview(doc: str, version: int) -> int:
        begun.set()
        if version == 1:
            await asyncio.Event().wait()
        return version

    async with app.test() as session:
        first = await preview.send("a", 1)
        await begun.wait()
        second, third = await preview.send("a", 2), await preview.send("a", 3)
        await session.drain()
        assert [await each.status() for each in (first, second)] == [JobState.CANCELLED] * 2
        info = await first.info()
        assert info.reason == "limit 'preview'"
        assert await third == 3


async def test_what_is_dropped_ends_as_cancelled() -> None:
    app, ledger = App("shop"), Ledger()

    @app.task(limits=[Limit("refresh", concurrency=1, on_limit="drop")])
    async def refresh() -> None:
        await ledger.run("refresh")

    async with app.test() as session:
        await refresh.send()
        await ledger.until(1)
        dropped = await refresh.send()
        info = await dropped.info()
        assert (info.state, info.reason) == (JobState.CANCELLED, "limit 'refresh'")
        ledger.go_on.set()
        await session.drain()


async def test_tenants_take_turns() -> None:
    app = App("shop", concurrency=1)
    order: list[str] = []
    gate = asyncio.Event()

    @app.task(fair=Fair(by="tenant", weight=lambda call: 2 if call["tenant"] == "big" else 1))
    async def work(tenant: str, at: int) -> None:
        await gate.wait()
        order.append(f"{tenant}{at}")

    async with app.test() as session:
        await work.send_many([("a", at) for at in range(5)])
        await work.send_many([("big", at) for at in range(4)])
        await work.send("b", 0)
        gate.set()
        await session.drain()
    assert order.index("b0") <= 5
    assert sorted(order) == sorted([*(f"a{at}" for at in range(5)), *(f"big{at}" for at in range(4)), "b0"])
    assert [each for each in order if each[0] == "a"] == [f"a{at}" for at in range(5)]


async def test_an_ordered_key_waits_for_the_retry() -> None:
    app = App("shop")
    order: list[tuple[str, int]] = []

    @app.task(limits=[Limit("account", by="account", concurrency=1, ordered=True)], retry=3)
    async def book(account: str, at: int) -> None:
        order.append((account, at))
        if at == 0 and order.count((account, at)) < 3:
            raise ValueError("not now")

    async with app.test() as session:
        await book.send_many([("a", at) for at in range(3)])
        await session.drain()
    assert order == [("a", 0)] * 3 + [("a", 1), ("a", 2)]


# -- what is refused


def declare(app: App | None = None, name: str = "sync", queue: str | None = None, **options: Any) -> Any:
    app = app or App("shop", url="redis://nowhere")

    @app.task(name=name, queue=queue, **options)
    async def sync(customer_id: int, size: int = 1, options: Any = None) -> None: ...

    return sync


def refused(*limits: Limit, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        declare(limits=list(limits), **more)
    return str(caught.value)


def test_what_does_not_fit_is_refused_where_the_task_is_declared() -> None:
    assert "Limit('a'): by='customer': there is no parameter 'customer' (did you mean 'customer_id'?)" in refused(
        Limit("a", by="customer", concurrency=1)
    )
    assert "Limit('a'): cost='sise': there is no parameter 'sise' (did you mean 'size'?)" in refused(
        Limit("a", rate=1, burst=2, cost="sise")
    )
    assert "two are named 'a'" in refused(Limit("a", concurrency=1), Limit("a", rate=1))
    assert "9 of them, a job has at most 8" in refused(*(Limit(f"a{at}", concurrency=1) for at in range(9)))
    for wrong, expected in [
        ("customer", "limits='customer': expected a list of Limit"),
        (Limit("a", concurrency=1), "expected a list: limits=[Limit(...)]"),
        ([3], 'limits: 3: expected a Limit, such as Limit("api", concurrency=2)'),
    ]:
        with pytest.raises(ConfigError) as caught:
            declare(limits=wrong)
        assert expected in str(caught.value)
    with pytest.raises(ConfigError, match="fair=3: expected a Fair"):
        declare(fair=3)
    with pytest.raises(ConfigError, match="Fair: by='tenant': there is no parameter 'tenant'"):
        declare(fair=Fair(by="tenant"))


def test_a_limit_of_two_queues_is_refused() -> None:
    app = App("shop", url="redis://nowhere")
    limit = Limit("api", concurrency=1)
    declare(app, "one", "mail", limits=[limit])
    declare(app, "two", "mail", limits=[limit])
    with pytest.raises(ConfigError, match=r"holds within one queue: app.limiter\('api', ...\) holds in all"):
        declare(app, "three", "bulk", limits=[limit])


def test_two_limits_of_one_name_say_the_same() -> None:
    app = App("shop", url="redis://nowhere")
    declare(app, "one", limits=[Limit("api", by="size", concurrency=1)])
    declare(app, "two", limits=[Limit("api", by="customer_id", concurrency=1)])
    with pytest.raises(ConfigError, match="task 'one' declares a limit of this name that says something else"):
        declare(app, "three", limits=[Limit("api", by="customer_id", concurrency=2)])


def test_in_a_sharded_queue_every_key_determines_the_shard() -> None:
    app = App("shop", url="redis://nowhere", queues={"mail": Queue(shards=4)})
    with pytest.raises(ConfigError, match=r"without `by` it holds for all jobs.*app.limiter\('a', ...\)"):
        declare(app, queue="mail", limits=[Limit("a", concurrency=1)])
    with pytest.raises(ConfigError, match="each key of its limits must determine the shard"):
        declare(
            app, queue="mail", limits=[Limit("a", by="size", concurrency=1), Limit("b", by="customer_id", rate=1)]
        )
    declare(
        app,
        queue="mail",
        limits=[Limit("a", by="customer_id", concurrency=1), Limit("b", by=["size", "customer_id"], rate=1)],
    )


async def test_a_queue_has_limits_of_all_its_jobs() -> None:
    app, ledger = App("shop", queues={"mail": Queue(limits=[Limit("smtp", concurrency=1)])}), Ledger()

    @app.task(queue="mail", limits=[Limit("user", by="user", concurrency=1)])
    async def greet(user: str) -> None:
        await ledger.run("mail")

    @app.task(queue="mail")
    async def warn() -> None:
        await ledger.run("mail")

    @app.task
    async def other() -> None:
        await ledger.run("other")

    async with app.test() as session:
        await greet.send("ann")
        await warn.send()
        await other.options(queue="mail").send()
        await other.send_many([(), ()])
        await ledger.until(3)
        ledger.go_on.set()
        await session.drain()
    assert ledger.most == {"mail": 1, "other": 2}


def test_the_limits_of_a_queue_may_be_tables() -> None:
    table: Any = {"mail": {"limits": [{"name": "smtp", "rate": 10, "per": 1, "by": ["user"]}]}}
    app = App("shop", url="redis://nowhere", queues=table)
    assert app.settings.queues is not None
    assert app.settings.queues["mail"].limits == (Limit("smtp", by=["user"], rate=10, per=1),)


WRONG_LIMITS: list[tuple[Any, str]] = [
    ({"mail": {"limits": [{"name": "smtp"}]}}, r"queue 'mail': limits: Limit\('smtp'\): give concurrency="),
    ({"mail": {"limits": [{"rate": 1}]}}, r"queue 'mail': limits: .*'name'"),
    ({"mail": {"limits": [{"name": "a", "rate": 1, "speed": 2}]}}, r"queue 'mail': limits: .*'speed'"),
    ({"mail": {"limits": [7]}}, r"queue 'mail': limits: 7: expected a Limit or a table"),
    ({"mail": {"limits": 7}}, r"queue 'mail': limits must be a list of Limit, not 7"),
    ({"mail": {"limits": [{"name": "a", "rate": 1}] * 2}}, r"two are named 'a'"),
    (
        {name: Queue(limits=[Limit("a", rate=1)]) for name in ("mail", "bulk")},
        r"queues 'mail' and 'bulk': limit 'a': a limit holds within one queue; app.limiter\('a', ...\)",
    ),
]


@pytest.mark.parametrize(("queues", "message"), WRONG_LIMITS)
def test_wrong_limits_of_a_queue_are_refused(queues: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        App("shop", url="redis://nowhere", queues=queues)


def test_a_task_of_the_queue_must_have_the_parameters() -> None:
    app = App("shop", url="redis://nowhere", queues={"mail": Queue(limits=[Limit("a", by="user", concurrency=1)])})
    with pytest.raises(ConfigError, match=r"task 'sync': Limit\('a'\): by='user': there is no parameter 'user'"):
        declare(app, queue="mail")
    with pytest.raises(ConfigError, match="two are named 'a'"):
        declare(app, queue="mail", limits=[Limit("a", concurrency=1)])


async def test_a_key_that_cannot_be_made_is_an_error_of_the_call() -> None:
    sync = declare(App("shop", url="redis://nowhere"), limits=[Limit("a", by="options", concurrency=1)])
    for value, message in [
        ([1], "its key is made of a list: expected a text, a number"),
        ({"a": 1}, "its key is made of a dict"),
        ("x" * 129, "expected 1 to 128 printable characters"),
        ("", "expected 1 to 128 printable characters"),
        ("a\nb", "expected 1 to 128 printable characters"),
    ]:
        with pytest.raises(ArgumentError) as caught:
            await sync.send(1, options=value)
        assert "task 'sync': Limit('a'): " + message in str(caught.value) or message in str(caught.value)
