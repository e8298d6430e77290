"""What pyright makes of code that uses aioq: what it must refuse, and the types it must find.

Each sample is written to a file of its own and checked in strict mode. A line that ends in `# E: rule` must be an
error of that rule (or of the other one, `# E: rule|rule`), and every other line must be none. `# T: type` is what
`reveal_type` on that line must show.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

HEAD = """\
import datetime
from collections.abc import Sequence
from typing import Any

from aioq import App, Batch, BatchItem, Call, JobHandle, JobInfo, JobState, Priority, Retry, Task
from aioq import as_completed, current_job, gather, gather_sync, group
from aioq.testing import MemorySession, SyncSession

app = App("shop")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
def join(*words: str, separator: str = " ") -> str:
    return separator.join(words)


@app.task(queue="mail", timeout=30, retry=Retry(5), result_ttl=datetime.timedelta(1), priority="high")
async def mail(to: str, /, *, copies: int = 1) -> list[str]:
    return [to] * copies


@app.task(executor="process")
def heavy(data: bytes) -> dict[str, float]:
    return {}


@app.task(retry=3)
async def nothing() -> None: ...


@app.task(batch=Batch(size=10), queue="mail")
async def lengths(items: list[BatchItem[str]]) -> list[int]:
    return [len(item.value) for item in items]


@app.task(batch=Batch(wait=1))
def write(items: list[BatchItem[bytes]]) -> None: ...


_used: list[Any] = [Any, Batch, BatchItem, Call, JobHandle, JobInfo, JobState, MemorySession, Priority]
_used += [Sequence, Task, as_completed, current_job, datetime, gather, gather_sync, group, SyncSession]


async def sample() -> None:
"""

SAMPLES = {
    "flows": """
@app.task
async def fetch(url: str) -> bytes: return b""

@app.task
async def parse(page: bytes, limit: int = 0) -> list[int]: return [*page]

@app.task
def embed(x: int) -> float: return x / 2

@app.task
async def total(xs: list[float]) -> float: return sum(xs)

flow = app.flow("ingest", timeout=30)
page = flow.add(fetch.call("http://a"))
reveal_type(page)  # T: FlowNode[bytes]
reveal_type(page.result)  # T: bytes
rows = flow.add(parse.call(page.result, limit=3), name="parse", on_failure=add.call(1, 2))
reveal_type(rows)  # T: FlowNode[list[int]]
reveal_type(flow.add(parse.call(page.result), on_failure="ignore"))  # T: FlowNode[list[int] | Failure]
halves = flow.map(embed, rows.result, window=10)
reveal_type(halves)  # T: FlowNode[list[float]]
maybe = flow.map(embed, rows.result, on_failure="ignore")
reveal_type(maybe)  # T: FlowNode[list[float | Failure]]
reveal_type(flow.starmap(add, [(1, 2), (3, 4)]))  # T: FlowNode[list[int]]
reveal_type(flow.add(app.flow("other")))  # T: FlowNode[Any]
handle = await flow.send(halves)
reveal_type(handle)  # T: FlowHandle[list[float]]
reveal_type(await handle)  # T: list[float]
reveal_type(handle[page])  # T: JobHandle[bytes]
reveal_type(handle["parse"])  # T: JobHandle[Any]
reveal_type(await gather(handle, handle[page]))  # T: tuple[list[float], bytes]
flow.add(total.call(page.result))  # E: reportArgumentType
flow.add(total.call(maybe.result))  # E: reportArgumentType
flow.map(embed, ["a"])  # E: reportArgumentType
flow.map(total, rows.result)  # E: reportArgumentType
flow.starmap(add, [(1, "2")])  # E: reportArgumentType
flow.add(embed)  # E: reportCallIssue|reportArgumentType
flow.add(embed.call(1), after=embed)  # E: reportCallIssue|reportArgumentType
flow.add(embed.call(1), name=3)  # E: reportCallIssue|reportArgumentType
flow.add(embed.call(1), on_failure="ignored")  # E: reportCallIssue|reportArgumentType
chain = fetch.call("u") | parse.options(delay=1)
reveal_type(chain)  # T: Chain[list[int]]
reveal_type(await (await chain.send()))  # T: list[int]
both = group(embed.call(1), embed.call(2))
reveal_type(both)  # T: Group[float]
reveal_type(await (await both.send()))  # T: list[float]
reveal_type(both | total)  # T: Chain[float]
reveal_type(group([embed.call(1)]))  # T: Group[float]
reveal_type(fetch.call("u") | group(parse, parse))  # T: Chain[list[list[int]]]
reveal_type(flow.add(both))  # T: FlowNode[list[float]]
reveal_type(flow.add(both, on_failure="ignore"))  # T: FlowNode[list[float | Failure]]
reveal_type(flow.add(chain, on_failure="ignore"))  # T: FlowNode[list[int] | Failure]
reveal_type(await fetch.options(on_success=parse, on_failure=add.call(1, 2)).send("u"))  # T: JobHandle[bytes]
reveal_type(app.flow_handle("x"))  # T: FlowHandle[Any]
reveal_type((await handle.graph())["parse"].state)  # T: NodeState
fetch.call("u") | total  # E: reportOperatorIssue|reportUnusedExpression
embed.call(1) | total  # E: reportOperatorIssue|reportUnusedExpression
""",
    "batches": """
reveal_type(await lengths.send("a"))  # T: JobHandle[int]
reveal_type(await lengths.send_many([("a",)]))  # T: list[JobHandle[int]]
reveal_type(lengths.call("a"))  # T: Call[int]
reveal_type(await write.send(b""))  # T: JobHandle[None]
reveal_type(await lengths([BatchItem("a")]))  # T: list[int]
await lengths.send(1)  # E: reportArgumentType
await lengths.send(["a"])  # E: reportArgumentType
await lengths.options(delay=1).send("a", "b")  # E: reportCallIssue

@app.task(batch=Batch())  # E: reportCallIssue|reportArgumentType|reportUntypedFunctionDecorator
async def one(item: BatchItem[str]) -> int:
    return 1

async def look(items: list[BatchItem[str]]) -> None:
    reveal_type(items[0].value)  # T: str
    items[0].fail(3)  # E: reportArgumentType
    items[0].retry(datetime.timedelta(1))

Batch(on_error="some")  # E: reportArgumentType
_ = one, look
""",
    "schedules": """
@app.cron("*/5 * * * mon-fri", tz="Asia/Shanghai", overlap="skip")
async def sweep() -> int:
    return 1

@app.every(datetime.timedelta(seconds=30), schedule_id="half-minute")
@app.task(queue="mail")
def post() -> str:
    return ""

app.every(30, overlap="queue")  # E: reportArgumentType
app.cron("@daily", tick=5)  # E: reportCallIssue
app.schedule("adds", add.call(5, 8), every=30, misfire="all", misfire_cap=5)
app.schedule("adds", add.call(5, "8"), every=30)  # E: reportArgumentType
reveal_type(await sweep.send())  # T: JobHandle[int]
reveal_type(await post.send())  # T: JobHandle[str]
schedule = await app.schedules.put("adds", add.call(5, 8), cron="@daily")
reveal_type(schedule.next_at)  # T: datetime | None
reveal_type(await app.schedules.list())  # T: list[Schedule]
reveal_type(await (await add.send(1, 2)).reschedule(delay=5))  # T: bool
""",
    "sync code": """
reveal_type(add.send_sync(1, y=2))  # T: JobHandle[int]
reveal_type(join.options(delay=1).send_sync("a"))  # T: JobHandle[str]
add.send_sync("x", 2)  # E: reportArgumentType
mail.send_sync(to="ada")  # E: reportCallIssue
reveal_type(heavy.send_many_sync([(b"",)]))  # T: list[JobHandle[dict[str, float]]]
reveal_type(app.send_sync("x", 1))  # T: JobHandle[Any]
reveal_type(app.send_many_sync([add.call(1, 2)]))  # T: list[JobHandle[Any]]
number, word = add.send_sync(1, 2), join.send_sync("a")
reveal_type(number.result_sync(timeout=datetime.timedelta(1)))  # T: int
reveal_type(number.info_sync(result=True))  # T: JobInfo
reveal_type(number.status_sync())  # T: JobState
reveal_type(number.cancel_sync("why"))  # T: bool
number.result_sync(timeout="5")  # E: reportArgumentType
reveal_type(gather_sync(number))  # T: tuple[int]
reveal_type(gather_sync(number, word, timeout=5))  # T: tuple[int, str]
reveal_type(gather_sync([number, number]))  # T: tuple[int, ...]
gather_sync(1)  # E: reportArgumentType|reportCallIssue
reveal_type(app.run_sync(add.send(1, 2)))  # T: JobHandle[int]
reveal_type(app.run_sync(number))  # T: int
reveal_type(app.run_sync(app.schedules.list()))  # T: list[Schedule]
app.run_sync(add.send)  # E: reportArgumentType
with app.test() as session:
    reveal_type(session)  # T: SyncSession
    session.advance(datetime.timedelta(1))
reveal_type(await app.send("x"))  # T: JobHandle[Any]
""",
    "handles of tasks": """
reveal_type(add.handle("id"))  # T: JobHandle[int]
reveal_type(await join.options(delay=1).handle("id", queue="x"))  # T: str
reveal_type(app.handle("id"))  # T: JobHandle[Any]
reveal_type((await add.handle("id").info()).error)  # T: Failure | None
await add.handle("id").result(datetime.timedelta(1))
reveal_type(await gather([add.handle("a"), add.handle("b")]))  # T: tuple[int, ...]
""",
    "arguments of send": """
await add.send(1, 2)
await add.send(1, y=2)
await add.send("x", 2)  # E: reportArgumentType
await add.send(1, y="2")  # E: reportArgumentType
await add.send(1)  # E: reportCallIssue
await add.send(1, 2, 3)  # E: reportCallIssue
await add.send(1, 2, z=3)  # E: reportCallIssue
await join.send("a", "b", separator="-")
await join.send("a", 2)  # E: reportArgumentType
await join.send("a", sep="-")  # E: reportCallIssue
await mail.send("ada", copies=2)
await mail.send(to="ada")  # E: reportCallIssue
await heavy.send("text")  # E: reportArgumentType
await nothing.send()
await nothing.send(1)  # E: reportCallIssue
""",
    "types of results": """
reveal_type(await add.send(1, 2))  # T: JobHandle[int]
reveal_type(await (await add.send(1, 2)))  # T: int
reveal_type(await (await join.send("a")))  # T: str
reveal_type(await (await mail.send("ada")))  # T: list[str]
reveal_type(await (await heavy.send(b"")))  # T: dict[str, float]
reveal_type(await (await nothing.send()))  # T: None
reveal_type(await (await add.send(1, 2)).result(timeout=5))  # T: int
wrong: str = await (await add.send(1, 2))  # E: reportAssignmentType
right: int = await (await add.send(1, 2))
""",
    "options": """
reveal_type(await add.options(delay=10, queue="slow").send(1, 2))  # T: JobHandle[int]
await add.options(delay=10).send("x", 2)  # E: reportArgumentType
await join.options(priority="low").options(headers={"a": "b"}).send("a")
await add.options(eta=datetime.datetime.now(datetime.UTC), job_id="x").send(1, 2)
add.options(delay=datetime.timedelta(1), timeout=0.5, retry=Retry(2), result_ttl=0, priority=Priority.HIGH)
add.options(retry=3)
add.options(dealy=3)  # E: reportCallIssue|reportArgumentType
add.options(delay="3")  # E: reportArgumentType
add.options(queue=3)  # E: reportArgumentType
add.options(priority="urgent")  # E: reportArgumentType
add.options(headers={"a": 1})  # E: reportArgumentType
add.options(3)  # E: reportCallIssue
""",
    "several at once": """
reveal_type(await add.send_many([(1, 2), (3, 4)]))  # T: list[JobHandle[int]]
reveal_type(add.call(1, 2))  # T: Call[int]
reveal_type(join.options(delay=1).call("a"))  # T: Call[str]
reveal_type(await app.send_many([add.call(1, 2), join.call("a", separator="-")]))  # T: list[JobHandle[Any]]
add.call("x", 2)  # E: reportArgumentType
await app.send_many([add])  # E: reportArgumentType
one, two = await add.send(1, 2), await add.send(3, 4)
reveal_type(await gather(one, two, timeout=5))  # T: tuple[int, int]
reveal_type(await gather(*await join.send_many([("a",)])))  # T: tuple[str, ...]
reveal_type(await gather(*await app.send_many([add.call(1, 2)])))  # T: tuple[Any, ...]
async for handle in as_completed([one, two], timeout=5):
    reveal_type(handle)  # T: JobHandle[int]
    reveal_type(await handle)  # T: int
await gather(1)  # E: reportArgumentType|reportCallIssue
""",
    "gather of different types": """
number, word, none = await add.send(1, 2), await join.send("a"), await nothing.send()
words, map_ = await mail.send("ada"), await heavy.send(b"")
reveal_type(await gather(number))  # T: tuple[int]
reveal_type(await gather(number, word))  # T: tuple[int, str]
reveal_type(await gather(word, none, number))  # T: tuple[str, None, int]
reveal_type(await gather(number, word, none, words, timeout=3))  # T: tuple[int, str, None, list[str]]
reveal_type(await gather(number, word, none, words, map_))  # T: tuple[int, str, None, list[str], dict[str, float]]
reveal_type(await gather(number, number, word, word, number, word))  # T: tuple[int | str, ...]
reveal_type(await gather(number, number, number, number, number, number))  # T: tuple[int, ...]
reveal_type(await gather(*[number, number]))  # T: tuple[int, ...]
reveal_type(await gather(number, *[number]))  # T: tuple[int, ...]
total, text = await gather(number, word)
reveal_type(total)  # T: int
reveal_type(text)  # T: str
a, b, c = await gather(number, word)  # E: reportAssignmentType
(await gather(number, number)).append(3)  # E: reportAttributeAccessIssue|reportUnknownMemberType
await gather(number, word, timout=3)  # E: reportCallIssue
await gather(number, 5)  # E: reportArgumentType|reportCallIssue
await gather(number, timeout="3")  # E: reportArgumentType|reportCallIssue
""",
    "plain calls": """
reveal_type(await add(1, 2))  # T: int
reveal_type(join("a", separator="-"))  # T: str
reveal_type(heavy(b""))  # T: dict[str, float]
reveal_type(await mail("ada", copies=2))  # T: list[str]
await add("x", 2)  # E: reportArgumentType
join(1)  # E: reportArgumentType
await join("a")  # E: reportGeneralTypeIssues
""",
    "handles": """
handle = await add.send(1, 2)
reveal_type(handle.id)  # T: str
reveal_type(await handle.status())  # T: JobState
reveal_type(await handle.info())  # T: JobInfo
reveal_type(await handle.cancel())  # T: bool
reveal_type(await app.handle("id"))  # T: Any
reveal_type(await app.send("shop.tasks.add", 1, 2))  # T: JobHandle[Any]
wider: JobHandle[int | str] = handle
narrower: JobHandle[bool] = handle  # E: reportAssignmentType
""",
    "the app": """
async with app as entered:
    reveal_type(entered)  # T: App
async with app.test() as session:
    reveal_type(session)  # T: MemorySession
App("shop", url="redis://x", lease=10, imports=["a"], timeout=datetime.timedelta(1))
App("shop", lease="10")  # E: reportArgumentType
App("shop", leese=10)  # E: reportCallIssue
reveal_type(App.from_config("shop.config", concurrency=5))  # T: App
reveal_type(current_job().attempt)  # T: int
task: Task[Any, Any] = app.tasks["x"]
""",
    "declaring tasks": """
@app.task(quue="x")  # E: reportCallIssue
async def one() -> None: ...
@app.task(executor="gpu")  # E: reportArgumentType
def two() -> None: ...
@app.task(retry="3")  # E: reportArgumentType
async def three() -> None: ...
@app.lifespan
async def resources():
    yield 5
Retry(5, delay=2, on=(OSError,), never=ValueError)  # E: reportArgumentType
Retry(5, delay=2, on=(OSError,), never=("shop.Error",))
_ = one, two, three, resources
""",
}


class Found(NamedTuple):
    """What pyright said of one line."""

    rule: str
    message: str


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, list[Found]]]:
    """What pyright says of each sample, by line; all samples in one run, because a start takes seconds."""
    folder = tmp_path_factory.mktemp("samples")
    files = {_path(folder, name): name for name in SAMPLES}
    for path, name in files.items():
        path.write_text(_source(name))
    root = str(Path(__file__).parents[2])
    config = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "include": ["."], "extraPaths": [root]}
    config |= {"reportUnusedVariable": "none"}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--project", str(folder)]
    command += ["--pythonpath", sys.executable]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=110)
    assert ran.returncode in {0, 1}, ran.stdout + ran.stderr
    found: dict[str, dict[int, list[Found]]] = {name: {} for name in SAMPLES}
    for each in json.loads(ran.stdout)["generalDiagnostics"]:
        line = each["range"]["start"]["line"] + 1
        rule = each.get("rule", each["severity"])
        found[files[Path(each["file"])]].setdefault(line, []).append(Found(rule, each["message"]))
    return found


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '_')}.py"


def _source(name: str) -> str:
    return HEAD + "".join(f"    {line}\n" if line else "\n" for line in SAMPLES[name].strip().splitlines())


def _marks(name: str, letter: str) -> dict[int, str]:
    lines = enumerate(_source(name).splitlines(), 1)
    marks = ((number, re.search(rf"# {letter}: (.*)$", line)) for number, line in lines)
    return {number: mark[1] for number, mark in marks if mark is not None}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_refused_and_what_is_not(checked: dict[str, dict[int, list[Found]]], name: str) -> None:
    lines = _source(name).splitlines()
    errors = {
        number: {each.rule for each in found if each.rule != "information"}
        for number, found in checked[name].items()
    }
    got = {number: rules for number, rules in errors.items() if rules}
    expected = _marks(name, "E")
    unexpected = {lines[number - 1]: checked[name][number] for number in got.keys() - expected.keys()}
    missed = [lines[number - 1] for number in expected.keys() - got.keys()]
    assert (unexpected, missed) == ({}, [])
    for number, rule in expected.items():
        assert got[number] & set(rule.split("|")), (lines[number - 1], checked[name][number])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [name for name in SAMPLES if "# T: " in SAMPLES[name]])
def test_the_types_that_are_found(checked: dict[str, dict[int, list[Found]]], name: str) -> None:
    expected = _marks(name, "T")
    revealed = re.compile(r'Type of ".*" is "(.*)"', re.DOTALL)
    got = {
        number: match[1]
        for number, found in checked[name].items()
        for each in found
        if (match := revealed.fullmatch(each.message))
    }
    assert got == expected
    assert len(expected) > 0
