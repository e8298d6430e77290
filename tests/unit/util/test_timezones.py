"""A host without a time zone database, as small images are: UTC works, the others are an error that says so.

Each test is a process of its own, for what zoneinfo has found once it keeps.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

PRELUDE = """
import asyncio, sys
sys.modules["tzdata"] = None  # not to be imported
from datetime import UTC, datetime, timedelta
from zoneinfo import available_timezones
assert available_timezones() == set()

from aioq.app import internals_of
from aioq import App, ConfigError
"""


def without_zones(program: str) -> str:
    """What the program prints where there is no database."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(program)],
        env={**os.environ, "PYTHONTZPATH": ""},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_utc_may_be_named_as_a_container_names_it():
    printed = without_zones("""
        app = App("shop", url="redis://nowhere", timezone="Etc/UTC")

        @app.cron("0 6 * * *")
        async def look(): ...

        definition = internals_of(app).app_parts().schedules()[0].definition
        print(definition.tz, definition.next_after(0))
    """)
    assert printed == "Etc/UTC 21600000\n"


def test_schedules_in_utc_tick_and_are_shown():
    printed = without_zones("""
        from aioq.cli.schedules import facts

        app = App("shop", url="redis://nowhere")

        @app.every(60)
        @app.cron("*/1 * * * *", schedule_id="cron")
        async def look():
            print("looked")

        async def main():
            async with app.test() as session:
                await session.advance(60)
                for schedule in await app.schedules.list():
                    assert len(schedule.next_runs(3)) == 3
                    print(schedule.description, "|", dict(facts(schedule))["next runs"].splitlines()[0][-3:])

        asyncio.run(main())
    """)
    assert sorted(printed.splitlines()) == ["Every 1 min | UTC", "Every minute | UTC", "looked", "looked"]


def test_another_zone_is_an_error_where_it_is_written():
    printed = without_zones("""
        app = App("shop", url="redis://nowhere")

        async def look(): ...

        for declare in (
            lambda: app.cron("@daily", tz="Europe/Berlin")(look),
            lambda: App("shop", url="redis://nowhere", timezone="Europe/Berlin"),
        ):
            try:
                declare()
            except ConfigError as error:
                print(error)
    """)
    declared, setting = printed.splitlines()
    assert "tz='Europe/Berlin': no such time zone; this host has no time zone database" in declared
    assert "setting 'timezone' from" in setting
    assert all(
        line.endswith("this host has no time zone database: pip install tzdata") for line in (declared, setting)
    )


def test_a_stored_schedule_in_another_zone_keeps_no_other_one_from_ticking():
    printed = without_zones("""
        from aioq.util.clock import ManualClock
        from aioq.store.connector import limits_of
        from aioq.store.memory import MemoryStore
        from aioq.schedules.ticks import tick_due
        from aioq.schedules.info import shown
        from aioq.store.schedules import Entry
        from aioq.schedules.timing import Definition, encode

        async def main():
            app = App("shop", url="redis://nowhere")
            store = MemoryStore("shop", clock=ManualClock(60_000), limits=limits_of(app.settings))
            zones = {"berlin": "Europe/Berlin", "utc": "UTC"}
            entries = [
                Entry(id=each, definition=encode(Definition(cron="* * * * *", tz=tz)), next_ms=60_000)
                for each, tz in zones.items()
            ]
            assert all(await store.timetable.write("q", entries))
            step = await tick_due(store.timetable, "q")
            print(step.made, dict(step.stuck))
            schedule = shown("q", (await store.timetable.read("q", ["berlin"])).entries[0])
            print(schedule.description, schedule.next_runs())
            interval = Definition(every_ms=1000, tz="Asia/Shanghai")  # the setting of the App that has stored it
            print(shown("q", Entry(id="s", definition=encode(interval), next_ms=0)).next_runs(1))

        asyncio.run(main())
    """)
    ticked, described, interval = printed.splitlines()
    assert ticked.startswith("1 {'berlin': ")
    why = "no time zone 'Europe/Berlin' on this host, which has no time zone database: pip install tzdata"
    assert why in ticked
    assert why in described
    assert described.endswith("[datetime.datetime(1970, 1, 1, 0, 1, tzinfo=datetime.timezone.utc)]")
    assert interval == "[datetime.datetime(1970, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)]"
