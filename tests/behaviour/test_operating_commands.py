"""The commands that operate queues: which App they take, what they print for programs, and what they refuse.

What they print for people is in `docs/cli.md`, and held by `test_cli_page.py`.
"""

import asyncio
import io
import json
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from aioq import App, Retry
from aioq.app import internals_of
from aioq.cli.main import main
from aioq.cli.top.actions import change_job
from aioq.worker import Worker
from tests.behaviour.kit import SECONDS, Project, until

SHOP = """
import asyncio
import os

from aioq import App, Retry, current_job

app = App(logs=10)


@app.task(name="shop.add")
async def add(x: int, y: int = 1) -> int:
    return x + y


@app.task(name="shop.hold")
async def hold(gate: str) -> None:
    while not os.path.exists(gate):
        current_job().log("it goes on")
        await asyncio.sleep(0.02)


@app.task(name="shop.charge")
async def charge(user: int, amount: int = 1) -> int:
    return amount


@app.task(name="shop.tries", retry=Retry(attempts=2, delay=0))
async def tries() -> None:
    job = current_job()
    job.log("attempt %d", job.attempt)
    if job.attempt == 1:
        raise TimeoutError
"""


class Ran(NamedTuple):
    """What a command has printed, and its exit code."""

    printed: str
    errors: str
    code: int

    @property
    def lines(self) -> list[str]:
        return self.printed.splitlines()

    @property
    def objects(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines]


def aioq(*words: str) -> Ran:
    """Run a command in this process; its output goes to no terminal."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main(words)
    return Ran(output.getvalue(), errors.getvalue(), int(ended.value.code or 0))


@pytest.fixture
def shop(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose directory this process is in; nothing of it runs."""
    project.write("shop.py", SHOP)
    project.load("shop")
    for name, value in project.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.folder)
    return project


def test_which_app_is_meant(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is named comes before that of the environment, and this before that of pyproject.toml."""
    assert aioq("send", "shop:app", "shop.add", "[1]", "--id", "named").lines == ["named"]
    missing = aioq("jobs")
    assert (missing.code, missing.printed) == (2, "")
    assert missing.errors.startswith("aioq: which App? Name it first (shop.tasks:app), set AIOQ_APP or ")
    shop.write("pyproject.toml", '[tool.aioq]\napp = "shop:app"\n')
    assert [line.split("\t")[0] for line in aioq("jobs").lines] == ["named"]
    assert aioq("job", "named", "--json").objects[0]["job"]["id"] == "named"  # pyright: ignore[reportIndexIssue, reportUnknownMemberType] - JSON
    assert [line.split("\t")[0] for line in aioq("schedules", "list").lines] == []
    monkeypatch.setenv("AIOQ_APP", "nowhere:app")
    assert "no module 'nowhere'" in aioq("jobs").errors
    assert aioq("jobs", "shop:app", "--count").printed == "1\n"
    for command in ("check", "doctor"):
        assert "no module 'nowhere'" in aioq(command).errors

    monkeypatch.setenv("AIOQ_APP", "shop:app")
    for words, needed in ("bulk retry more", "the ACTION"), ("jobs more", "no argument"):
        many = aioq(*words.split())
        said = f"; the App is set already (shop:app): this command needs {needed} beside it"
        assert (said in many.errors, many.code) == (True, 2)

    url = shop.settings["AIOQ_URL"]
    assert aioq("jobs", "--name", shop.name, "--url", url, "--count").printed == "1\n"
    assert aioq("jobs", "--name", "another", "--url", url, "--count").printed == "0\n"
    assert (
        aioq("jobs", "--url", url).errors
        == 'aioq: --url needs the App\'s name too: --name shop, for App("shop")\n'
    )
    (missing,) = aioq("workers", "--name", shop.name, "web1-1-a").errors.splitlines()
    assert missing == "aioq: there is no worker 'web1-1-a'; there are: none"
    assert aioq("workers", "--name", shop.name, "web1-*").code == 0, "a pattern searches"
    sent = aioq("send", "--name", shop.name, "no.such.task", '{"any": 1}', "--delay", "1h", "--json")
    assert sent.code == 0, "without the code nobody knows its tasks"
    assert sent.objects[0].keys() == {"id", "added"}


def test_what_programs_get(shop: Project) -> None:
    (line,) = aioq("send", "shop:app", "shop.add", '{"x": 1}', "--delay", "1h", "--tag", "a", "--tag", "b").lines
    assert aioq("jobs", "shop:app").lines[0].split("\t")[:5] == [line, "shop.add", "default", "scheduled", "0"]
    (job,) = aioq("jobs", "shop:app", "--tag", "b", "-a", "x=1", "--json").objects
    assert (job["id"], job["state"], job["tags"], job["error"]) == (line, "scheduled", ["a", "b"], None)
    assert aioq("jobs", "shop:app", "--tag", "c").lines == []
    assert aioq("jobs", "shop:app", "--count", "--json").objects == [{"value": 1, "exact": True}]
    (queue,) = aioq("queues", "shop:app", "--json").objects
    assert queue.keys() == {"info", "counts", "stats", "max_size"}
    assert queue["counts"] == {"queued": 0, "scheduled": 1, "waiting": 0, "running": 0, "dead": 0}
    (why,) = aioq("why", "shop:app", line, "--json").objects
    assert [reason["code"] for reason in why["reasons"]] == ["not_due"]  # pyright: ignore[reportUnknownVariableType, reportGeneralTypeIssues, reportIndexIssue] - JSON
    assert aioq("workers", "shop:app", "--json").printed == ""
    (dry,) = aioq("bulk", "shop:app", "run-now", "--dry-run", "--json").objects
    assert (dry["state"], dry["total"], dry["done"]) == ("dry_run", 1, 0)


def test_a_copy_without_the_code_needs_positions(shop: Project) -> None:
    aioq("send", "shop:app", "shop.charge", "[7, 500]", "--id", "placed", "--delay", "1h")
    there = ("--url", shop.settings["AIOQ_URL"], "--name", shop.name)
    refused = aioq("job", *there, "placed", "--copy", "-a", "user=9")
    assert (refused.code, "give the position of 'user', from 0 on" in refused.errors) == (2, True)
    (copy,) = aioq("job", *there, "placed", "--copy", "-a", "0=9").lines
    assert aioq("jobs", "shop:app", "-a", "user=9", "-a", "amount=500").lines[0].split("\t")[0] == copy


def test_a_reader_that_has_enough_ends_what_follows_a_job_before_the_job_ends(shop: Project) -> None:
    gate = shop.folder / "gate"
    asyncio.run(shop.ready_worker("shop:app"))
    aioq("send", "shop:app", "shop.hold", json.dumps([str(gate)]), "--id", "held")
    tail = f"{sys.executable} -m aioq tail shop:app held | head -n 3 >/dev/null; echo ${{PIPESTATUS[0]}}"
    shell = shop.run("bash", "-c", tail)
    assert asyncio.run(shell.ended()) == 0
    assert shell.printed == ["1"]
    gate.touch()


def test_a_copy_has_other_arguments_only_where_they_are_given(shop: Project) -> None:
    """By name or by position, whether the call has them by name or by position."""
    aioq("send", "shop:app", "shop.charge", '{"user": 7, "amount": 500}', "--id", "named", "--delay", "1h")
    aioq("send", "shop:app", "shop.charge", "[7, 500]", "--id", "placed", "--delay", "1h")
    for job in ("named", "placed"):
        (copy,) = aioq("job", "shop:app", job, "--copy", "--argument", "user=9").lines
        assert aioq("jobs", "shop:app", "-a", "user=9", "-a", "amount=500").lines[0].split("\t")[0] == copy
        assert aioq("job", "shop:app", copy, "--delete", "--yes").code == 0
    (copy,) = aioq("job", "shop:app", "placed", "--copy", "-a", "1=3").lines
    assert aioq("jobs", "shop:app", "-a", "user=7", "-a", "amount=3").lines[0].split("\t")[0] == copy
    refused = aioq("job", "shop:app", "named", "--copy", "-a", "1=3")
    assert "the call has no argument at position 1; it has 0 by position" in refused.errors
    assert "aioq: task 'shop.charge'" in aioq("job", "shop:app", "named", "--copy", "-a", "user=x").errors


@pytest.mark.anyio
async def test_a_failed_job_whose_call_is_gone_is_not_said_to_need_to_have_failed(shop: Project) -> None:
    app = App(shop.name, url=shop.settings["AIOQ_URL"], dead_limit=0)

    @app.task(name="shop.break", retry=Retry(attempts=1))
    async def fail() -> None:
        raise ValueError("no")

    async with app:
        old = await fail.options(job_id="old").send()
        await Worker(app._internals.app_parts(), queues=["default"], burst=True).run()
        said = "old is failed; its call is not kept any more (dead_ttl, dead_limit), so it cannot be retried"
        assert await change_job(app, "retry", await old.info()) == said
    refused = await asyncio.to_thread(aioq, "job", "shop:app", "old", "--retry")
    assert (refused.code, refused.errors.strip()) == (1, f"aioq: the job {said}")


def test_a_job_that_leaves_no_record_is_followed_to_its_end(shop: Project) -> None:
    queue = sys.modules["shop"].app.queue("default")

    async def followed() -> list[str]:
        await sys.modules["shop"].add.options(job_id="gone", result_ttl=0).send(1)
        await queue.pause()
        await shop.ready_worker("shop:app")
        process = shop.python("-m", "aioq", "tail", "shop:app", "gone", "--json")
        await until(lambda: process.printed)
        await queue.resume()
        assert await process.ended() == 0, process.log
        return [json.loads(line)["kind"] for line in process.printed]

    assert asyncio.run(followed())[-1] == "succeeded"
    assert "there is no job 'gone'" in aioq("tail", "shop:app", "gone").errors


def test_a_job_with_an_id_of_ones_own_is_found_in_a_queue_that_only_the_server_knows(shop: Project) -> None:
    app = sys.modules["shop"].app

    async def sent() -> None:
        async with app:
            await (await internals_of(app).store()).operating.note_queues(["mail", "post"])
            await app.queue("post").set_shards(2)
            for queue, job_id in (("mail", "one"), ("post", "two"), ("post", "three")):
                await sys.modules["shop"].add.options(queue=queue, job_id=job_id, delay=60).send(1)

    asyncio.run(sent())
    (found,) = aioq("doctor", "--name", shop.name, "--json").objects
    assert found["servers"][0]["queues"] == ["default", "mail", "post", "post#1"]  # pyright: ignore[reportIndexIssue, reportUnknownVariableType] - JSON
    for job_id in ("one", "two", "three"):
        for target in (["shop:app"], ["--name", shop.name]):
            assert aioq("why", *target, job_id, "--json").objects[0]["id"] == job_id
        assert aioq("job", "--name", shop.name, job_id, "--cancel", "--yes").code == 0
        assert aioq("tail", "--name", shop.name, job_id).lines[-1].split()[-1] == "cancelled"
    missing = aioq("job", "--name", shop.name, "four").errors
    assert "no job 'four' in the queues default, mail, post" in missing


def test_a_change_is_reported_to_programs_too(shop: Project) -> None:
    aioq("send", "shop:app", "shop.add", "[1]", "--id", "one", "--delay", "1h")
    job = ("job", "shop:app", "one", "--json")
    refused = aioq(*job, "--move", "defualt")
    assert "no queue 'defualt' (did you mean 'default'?)" in refused.errors
    assert refused.code
    assert aioq(*job, "--priority", "high").objects == [{"id": "one", "done": True}]
    refused = aioq(*job, "--retry")
    assert (refused.objects, refused.code) == ([{"id": "one", "done": False, "state": "scheduled"}], 1)
    assert aioq(*job, "--run-now").objects == [{"id": "one", "done": True}]
    assert aioq(*job, "--cancel", "--yes").objects == [{"id": "one", "done": True}]


def test_a_server_shards_and_schedules_for_programs(shop: Project) -> None:
    app = sys.modules["shop"].app
    asyncio.run(sys.modules["shop"].add.options(queue="mail").send(1))
    asyncio.run(app.queue("mail").set_shards(2))
    asyncio.run(app.schedules.put("each", sys.modules["shop"].add.call(1), every=60))
    (found,) = aioq("doctor", "shop:app", "--json").objects
    assert found.keys() == {"servers", "findings", "notes"}
    url, name = shop.settings["AIOQ_URL"], shop.name
    assert aioq("doctor", "--url", url, "--name", name, "--json").objects[0].keys() == found.keys()
    (queue,) = aioq("shards", "shop:app", "--json").objects
    assert queue["queue"] == "mail"
    assert [each["shard"] for each in queue["shards"]] == [0, 1]  # pyright: ignore[reportUnknownVariableType, reportGeneralTypeIssues, reportIndexIssue] - JSON
    for command in (("list", "shop:app"), ("show", "shop:app", "each")):
        (schedule,) = aioq("schedules", *command, "--json").objects
        assert (schedule["id"], schedule["task"], schedule["every"]) == ("each", "shop.add", 60.0)


def test_workers_are_found_shown_changed_and_stopped(shop: Project) -> None:
    process = asyncio.run(shop.ready_worker("shop:app"))
    assert aioq("send", "shop:app", "shop.add", "[1]", "--wait").code == 0  # so the server knows the worker
    asyncio.run(sys.modules["shop"].add.options(queue="mail", delay=3600).send(1))
    (worker,) = aioq("workers", "shop:app", "--json").objects
    name, asked = str(worker["id"]), ("workers", "shop:app", str(worker["id"]), "--json")
    ended = aioq("jobs", "shop:app", "--state", "succeeded", "--worker", name, "--json").objects
    assert [job["task"] for job in ended] == ["shop.add"]

    (stacks,) = aioq(*asked, "--stacks").objects
    assert (stacks["id"], stacks["stacks"].keys()) == (name, {"blocked_for", "threads", "tasks", "left_out"})  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - JSON
    assert "thread MainThread:" in aioq("workers", "shop:app", name, "--stacks").lines
    for change, attribute, value in (
        ("--pause", "paused", True),
        ("--resume", "paused", False),
        ("--resize=3", "slots", 3),
        ("--resize=default=2", "queue_slots", {"default": 2}),
        ("--add-queue=mail", "queues", ["default", "mail"]),
        ("--remove-queue=default", "queues", ["mail"]),
        ("--refresh", "draining", False),
    ):
        (after,) = aioq(*asked, change).objects
        assert (after["id"], after[attribute]) == (name, value), change
    assert "stop 1 worker? There is no terminal to ask" in aioq(*asked, "--stop").errors
    assert aioq(*asked, "--stop", "--yes").objects[0]["draining"] is True
    assert asyncio.run(process.ended()) == 0, process.log


def test_queues_are_shown_with_their_bounds(shop: Project) -> None:
    code = 'from aioq import App, Queue\napp = App("shop", queues={"mail": Queue(max_size=7)}, stats=%s)\n'
    for number, stats in enumerate((True, False)):
        Path(f"bounded{number}.py").write_text(code % stats)
        (line,) = [each for each in aioq("queues", f"bounded{number}:app").lines if each.startswith("mail\t")]
        assert line.endswith("\topen\t7")
        assert "max size\t7" in aioq("queue", f"bounded{number}:app", "mail").lines


def test_an_operation_that_is_not_waited_for_is_waited_for_later(shop: Project) -> None:
    for number in range(3):
        aioq("send", "shop:app", "shop.add", f"[{number}]", "--id", f"job-{number}", "--delay", f"{number + 1}h")
    scheduled = [line.split("\t")[0] for line in aioq("jobs", "shop:app", "--order", "oldest").lines]
    assert scheduled == ["job-0", "job-1", "job-2"]
    (begun,) = aioq("bulk", "shop:app", "delete", "--yes", "--no-wait", "--json").objects
    assert (begun["state"], begun["done"], begun["total"]) == ("running", 0, 3)
    assert aioq("jobs", "shop:app", "--count").printed == "3\n", "there is no worker that does it"
    (paused,) = aioq("operations", "shop:app", str(begun["id"]), "--pause", "--json").objects
    assert paused["state"] == "paused"
    aioq("operations", "shop:app", str(begun["id"]), "--resume")
    (ended,) = aioq("operations", "shop:app", str(begun["id"]), "--wait", "--json").objects
    assert (ended["state"], ended["done"]) == ("ended", 3)
    assert aioq("jobs", "shop:app").lines == []


def test_an_operation_that_is_over_is_not_changed(shop: Project) -> None:
    (operation,) = aioq("bulk", "shop:app", "run-now", "--json").objects
    for change in ("--pause", "--resume", "--abort"):
        refused = aioq("operations", "shop:app", str(operation["id"]), change)
        assert (refused.code, "is over: ended" in refused.errors) == (1, True)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("jobs shop:app --since yesterday", "'yesterday' is no time; write 2h, or 2026-11-30T09:00Z"),
        ("jobs shop:app --since 2026-11-30T09:00", "has no time zone; write 2026-11-30T09:00Z for UTC"),
        ("jobs shop:app --queue nowhere", "there is no queue 'nowhere'; there are: default"),
        ("jobs shop:app --state running,failed", "state='running,failed'"),
        ("jobs shop:app --error [", "error='['"),
        ("jobs shop:app -a user", "'user': write NAME=VALUE, such as user_id=7"),
        ("jobs shop:app and more", "unexpected argument: and more"),
        ("job shop:app", "missing the job's ID"),
        ("job shop:app nothing", "there is no job 'nothing'"),
        ("job shop:app x --retry --copy", "one change at a time"),
        ("job shop:app x --retry --cancel", "one change at a time, and not --retry and --cancel"),
        ("job shop:app x --run-now --priority low", "one change at a time, and not --run-now and --priority"),
        ("queue shop:app default --pause --resume", "one change at a time, and not --pause and --resume"),
        ("queue shop:app default --purge --yes --pause", "one change at a time, and not --purge and --pause"),
        ("workers shop:app * --stop --pause", "one change at a time, and not --stop and --pause"),
        ("workers shop:app * --resume --resize 3", "one change at a time, and not --resume and --resize"),
        ("operations shop:app x --pause --abort", "one change at a time, and not --pause and --abort"),
        ("queue shop:app a:b", "'a:b': expected 1 to 128 letters"),
        ("queue shop:app nowhere", "there is no queue 'nowhere'; there are: default"),
        ("jobs shop:app --queue a:b", "'a:b': expected 1 to 128 letters"),
        ("job shop:app x --move a:b", "'a:b': expected 1 to 128 letters"),
        ("send shop:app shop.add [1] --queue a:b", "'a:b': expected 1 to 128 letters"),
        (
            "send shop:app shop.add [1] --queue defualt",
            "no queue 'defualt' (did you mean 'default'?); there are: ",
        ),
        ("send shop:app shop.add [1] --delay 1h --at 2h", "give --delay or --at, and not both"),
        (
            "workers shop:app * --resize 0",
            "--resize '0': expected SLOTS or NAME=SLOTS with a number of slots from 1",
        ),
        ("workers shop:app * --resize mail=", "--resize 'mail=': expected SLOTS or NAME=SLOTS"),
        ("workers shop:app * --resize a:b=2", "--resize 'a:b': expected 1 to 128 letters"),
        ("workers shop:app * --add-queue a:b", "--add-queue 'a:b': expected 1 to 128 letters"),
        ("workers shop:app * --remove-queue a:b", "--remove-queue 'a:b': expected 1 to 128 letters"),
        ("workers shop:app --queue a:b", "'a:b': expected 1 to 128 letters"),
        ("events shop:app --queue a:b", "'a:b': expected 1 to 128 letters"),
        ("bulk shop:app move --to a:b", "'a:b': expected 1 to 128 letters"),
        ("bulk shop:app retry --state queued", "failed"),
        ("bulk shop:app cancle", "no action 'cancle' (did you mean 'cancel'?); there are: "),
        ("job shop:app x --delete", "delete the job x? There is no terminal to ask; give --yes"),
        ("job shop:app x --cancel", "cancel the job x? There is no terminal to ask; give --yes"),
        (
            "queue shop:app default --purge",
            "(0 queued, 0 scheduled, 0 waiting)? There is no terminal to ask",
        ),
        ("queue shop:app default --purge --state failed", "(0 failed)? There is no terminal to ask"),
        ("queue shop:app default --purge --state faild", "'faild' (did you mean 'failed'?); there are: waiting, "),
        ("queue shop:app default --pause --task no.such", "no.such"),
        ("queue shop:app default --until 1h", "--until is for --pause"),
        ("workers shop:app --stop", "which workers? Give an id, or a pattern"),
        ("workers shop:app w --pause", "there is no worker 'w'; there are: none"),
        ("bulk shop:app move", "--to says which queue"),
        ("bulk shop:app cancel", "cancel 0 jobs of"),
        ("operations shop:app --abort", "which operation? Give its ID"),
        ("operations shop:app retry-1", "retry-1"),
        ("send shop:app shop.ad", "there is no task 'shop.ad' (did you mean 'shop.add'?); there are: shop.add"),
        ("send shop:app shop.add {x:1}", "the arguments are no JSON"),
        ("send shop:app shop.add 7", "write an object"),
        ("events shop:app --kind ended_", "ended_"),
        ("tail shop:app nothing", "there is no job 'nothing'"),
    ],
)
def test_what_is_refused(shop: Project, words: str, error: str) -> None:
    """With exit code 2, an error that says what is wrong, and nothing on standard output."""
    ran = aioq(*words.split())
    assert error in ran.errors
    assert (ran.code, ran.printed) == (2, "")


def test_the_lines_and_the_events_of_a_job_that_has_ended_come_in_the_order_of_time(shop: Project) -> None:
    asyncio.run(shop.ready_worker("shop:app"))
    assert aioq("send", "shop:app", "shop.tries", "--id", "tries", "--wait").code == 0
    parts = [line.split("  ")[1:] for line in aioq("tail", "shop:app", "tries").lines]
    assert [each[1] if each[0] == "info" else each[0] for each in parts] == [
        *("sent", "started", "attempt 1", "retried", "started", "attempt 2", "succeeded")
    ]


def test_an_unknown_queue_for_a_worker_is_bad_input_and_what_it_refuses_is_a_no(shop: Project) -> None:
    asyncio.run(shop.ready_worker("shop:app"))
    assert aioq("send", "shop:app", "shop.add", "[1]", "--wait").code == 0  # so the server knows the worker
    unknown = aioq("workers", "shop:app", "*", "--add-queue", "defualt")
    assert ("no queue 'defualt' (did you mean 'default'?)" in unknown.errors, unknown.code) == (True, 2)
    refused = aioq("workers", "shop:app", "*", "--remove-queue", "defualt")
    assert ("it does not serve queue 'defualt'" in refused.errors, refused.code) == (True, 1)


def test_a_job_is_followed_to_its_end(shop: Project) -> None:
    asyncio.run(shop.ready_worker("shop:app"))
    assert aioq("send", "shop:app", "shop.add", "[1]", "--id", "one", "--wait").lines == ["one", "2"]
    assert [line.split("  ")[1] for line in aioq("tail", "shop:app", "one").lines] == [
        "sent",
        "started",
        "succeeded",
    ]
    cancelled = aioq("send", "shop:app", "shop.add", "[1]", "--id", "two", "--delay", "1h")
    assert cancelled.code == 0
    assert aioq("job", "shop:app", "two", "--cancel", "--reason", "sold", "-y").lines == ["two cancelled"]
    assert aioq("job", "shop:app", "two", "--cancel", "--yes").code == 1
    followed = aioq("tail", "shop:app", "two", "--json")
    assert ([each["kind"] for each in followed.objects], followed.code) == (["sent", "cancelled"], 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_events_end_with_the_cursor_to_go_on_with(shop: Project, number: signal.Signals) -> None:
    """Also when Ctrl-C ends them, which is how they usually end, or a service manager."""

    async def interrupted() -> str:
        process = shop.python("-m", "aioq", "events", "shop:app", "--kind", "sent")
        async with asyncio.timeout(SECONDS):
            while not process.printed:  # before it listens, it prints nothing, nor where to go on
                await sys.modules["shop"].add.options(delay=3600).send(1)
                await asyncio.sleep(0.05)
        process.signal(number)
        assert await process.ended() == 130, process.log
        (line,) = process.lines
        assert line.startswith("go on with --cursor "), process.log
        return line.removeprefix("go on with --cursor ")

    cursor = asyncio.run(interrupted())
    assert aioq("send", "shop:app", "shop.add", "[1]", "--id", "later", "--delay", "1h").code == 0
    assert aioq("job", "shop:app", "later", "--cancel", "--yes").code == 0
    found = aioq("events", "shop:app", "--kind", "ended", "--limit", "1", "--json", "--cursor", cursor)
    assert (found.code, len(found.lines)) == (0, 1), (cursor, found)
    (event,) = found.objects
    assert (event["kind"], event["job_id"]) == ("cancelled", "later")


def test_a_reader_that_has_enough_ends_a_command_quietly(shop: Project) -> None:
    add = sys.modules["shop"].add
    asyncio.run(sys.modules["shop"].app.send_many([add.options(delay=3600).call(each) for each in range(500)]))
    command = (
        f"{sys.executable} -m aioq jobs shop:app --all --json | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    )
    shell = shop.run("bash", "-c", command)
    assert asyncio.run(shell.ended()) == 0
    assert (shell.printed, shell.lines) == (["1"], [])
