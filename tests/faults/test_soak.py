"""R10: half an hour of everything at once, and nothing grows."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Numbered, Rig, condition, meanwhile, mixed_seconds
from tests.faults.server_size import MB, measure
from tests.faults.trend import Trend
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15)]

RATE = 100.0  # jobs a second
SETTINGS = {"AIOQ_RESULT_TTL": "3", "AIOQ_DEAD_TTL": "3", "AIOQ_SEND_TIMEOUT": "3", "AIOQ_LEASE": "3"}
"""So short that the server is steady after some seconds: what is over is forgotten 8 s after its send."""

LEFT = 30  # keys of a queue that nothing is in: its lanes, its workers, what died last
COUNTED = 3
"""By how many tasks the statistics count: the two of the load, and "" for what was sent. Each has a key for each
minute and for each hour, which is kept for longer than this lasts."""

FLAT: dict[str, tuple[float, float]] = {
    "worker MB": (0.03, 2.0),
    "server MB": (0.05, 0.5),
    "keys": (0.05, 100.0),
    "pending": (0.0, 5.0),
    "stream length": (0.0, 400.0),
}
"""What a figure may gain in the time measured: a share of its mean, or this much if that is more."""

WARMING = {**FLAT, "worker MB": (0.1, 8.0), "server MB": (0.2, 2.0), "keys": (0.0, 1000.0)}
"""The same in the short form, which is over before anything is warm: it sees large leaks, and keys that stay."""


def any_job(case: Case, tasks: Any, number: int) -> Numbered:
    """A job of one kind or another: at once or later, in three lanes; some fail now and then, some for good."""
    seconds = mixed_seconds(case.chance)
    kind = case.chance.random()
    if kind < 0.2:
        return number, tasks.stumble.call(number, seconds, case.chance.randint(0, 6))
    options: dict[str, Any] = {"priority": case.chance.choice(("high", "normal", "normal", "low"))}
    if kind < 0.4:
        options["delay"] = case.chance.uniform(0.1, 3.0)
    return number, tasks.work.options(**options).call(number, seconds)


def keys_left(client: Any) -> tuple[int, int]:
    """How many keys there are but those of statistics, and how many of these."""
    of_statistics = [":stats:" in str(key) for key in client.scan_iter(count=1000)]
    return of_statistics.count(False), of_statistics.count(True)


@pytest.mark.fault(
    "R10",
    fault="soak, 30 minutes, mixed delays, failures, kills",
    passes="worker RSS, server memory, pending list, key count flat",
    minutes=35,
)
async def test_nothing_grows(
    start_server: Callable[..., Server], make_rig: Callable[[str], Rig], case: Case, report: Report
) -> None:
    seconds = case.size(6, 1800)
    kill_every, sample_every = (15.0, 5.0) if case.full else (2.0, 0.2)
    rig = make_rig(start_server().url)
    rig.project.settings.update(SETTINGS)
    load = Load(rig)
    crew = Crew(rig, 3)
    samples: list[tuple[float, dict[str, float]]] = []

    async def kill() -> None:
        while True:
            await asyncio.sleep(kill_every)
            await crew.kill(case.chance.choice(crew.workers[1:]))  # the first one lives through it all

    async with crew.at_work():
        steady = psutil.Process(crew.workers[0].pid)

        async def sample(client: Any) -> None:
            while True:
                memory = steady.memory_info().rss / MB
                samples.append((time.monotonic(), {"worker MB": memory, **measure(client, rig)}))
                await asyncio.sleep(sample_every)

        with rig.client() as client:
            async with meanwhile(kill), meanwhile(lambda: sample(client)):
                calls = [any_job(case, rig.tasks, number) for number in range(round(RATE * seconds))]
                await load.pace(calls, RATE)
        await load.ended(limit=40)
        with rig.client() as client:
            await condition(lambda: keys_left(client)[0] <= LEFT, 20, "the end of all keys")
            statistics = keys_left(client)[1]
    await rig.tasks.app.aclose()

    found = rig.verdict()
    trends = {name: Trend.of([(at, each[name]) for at, each in samples], warm_up=0.25) for name in samples[0][1]}
    outcomes = [row.how for row in rig.ledger.rows() if row.what == "outcome"]
    report.add(seconds=seconds, **found.words, failed=outcomes.count("failed"), kills=rig.kills())
    for name, trend in trends.items():
        report.add(
            **{name: f"{trend.mean:,.1f} on average, {trend.growth:+,.2f} in all, {trend.per_hour:+,.2f} an hour"}
        )
    minutes = (time.monotonic() - samples[0][0]) / 60
    assert statistics <= COUNTED * (minutes + 2 + minutes / 60 + 2)
    assert found.lost == frozenset()
    assert found.unexpected == ()
    assert found.recovered, "no kill has met a running job: the case shows nothing"
    allowed = FLAT if case.full and case.scale == 1 else WARMING
    grown = {name: trend.growth for name, trend in trends.items() if not trend.is_flat(*allowed[name])}
    assert grown == {}
