"""One test holds each Lua header against its caller; and a server that has forgotten a script gets it again."""

import ast
import asyncio
import hashlib
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

import aioq
import aioq.store.redis
from aioq.jobs.job import JobState, Priority
from aioq.store import history
from aioq.store.bounds import ASIDE_COST, CLAIM_LIMIT, SKIPPED_LIMIT, WAIT_LIMIT
from aioq.store.contract import MAX_CUTS, Limits, NewJob, Settlement, Token, Verb
from aioq.store.control import ANSWER_TTL_MS
from aioq.store.events import MOST_LIVE, Position
from aioq.store.extra import LimitUse, Lock, MovedJob
from aioq.store.flows import FlowStart, FlowStep
from aioq.store.limiters import PermitLease, Take
from aioq.store.memory import schedules as memory_schedules
from aioq.store.memory.outcomes import MAX_WAITERS
from aioq.store.memory.pubsub import MESSAGE_LIMIT
from aioq.store.operating import ListQuery
from aioq.store.operations import Act, OperationStep
from aioq.store.outbox import HOLD_MS, DeliveryResult, OutboxEntry, Reading
from aioq.store.redis import RedisStore, holding, keys, leases, replies
from aioq.store.redis.arguments import BODY_LIMIT
from aioq.store.redis.calls import Calls
from aioq.store.redis.history import PLACES_SIZE, TIMES_SIZE
from aioq.store.redis.net.failover import Failover
from aioq.store.redis.scripts import (
    READS_ONLY,
    Library,
    Script,
    definitions,
    library,
    names_in,
    needs_of,
    resolved,
    script,
    source,
)
from aioq.store.schedules import Entry, Overlap, Tick
from aioq.store.story import LoggedLines
from tests.contract.kit import (
    CALL,
    QUEUE,
    REASON,
    THREE,
    Backend,
    ids,
    info,
    joined,
    keep,
    send,
    settle,
    take,
    take_one,
)
from tests.databases import Database

LUA = {
    f"{directory.name}/{path.name.removesuffix('.lua')}".removeprefix("commands/"): path
    for directory in files("aioq.store.redis").joinpath("lua").iterdir()
    for path in directory.iterdir()
}
"""Commands by their name, parts as `lib/<name>`."""
LUA_KEYS = "store/redis/lua/lib/keys.lua"
SCRIPTS = sorted(name for name in LUA if not name.startswith("lib/"))
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eleven": 11}


class Header:
    """The comment a script begins with, and what can be read from it."""

    def __init__(self, name: str) -> None:
        text = LUA[name].read_text()
        comment = re.match(r"(?:--.*\n)+", text)
        assert comment, f"{name}.lua begins without a header"
        self.code = text[comment.end() :]
        lines = [line.removeprefix("--").strip() for line in comment.group().splitlines()]
        self.parts: dict[str, str] = {"": ""}
        part = ""
        for line in lines:
            found = re.match(r"(NEEDS|USES|KEYS|ARGV|REPLY): ?(.*)", line)
            part = found[1] if found else part
            self.parts[part] = f"{self.parts.get(part, '')} {found[2] if found else line}".strip()

    @property
    def fixed(self) -> int:
        """How many arguments come once."""
        numbers = [int(number) for number in re.findall(r"(?:^|[,;] )(\d+) ", self.parts["ARGV"])]
        assert numbers == list(range(1, len(numbers) + 1)), "numbered in order"
        return len(numbers)

    @property
    def each(self) -> int:
        """How many arguments come for each job, 0 where the header names none."""
        argv = self.parts["ARGV"]
        found = re.search(r"(?:^|then )(\w+) (?:per|for each) ", argv)
        if found:
            return NUMBERS[found[1]]
        return 1 if re.search(r"(?:^|then )(?:job )?ids", argv) else 0


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_header_says_what_the_script_does_takes_and_returns(name: str) -> None:
    header = Header(name)

    assert header.parts[""].endswith("."), "a sentence on what it does"
    assert header.parts["KEYS"] == "1 base key"
    assert header.parts["ARGV"]
    assert header.parts["REPLY"]


PARTS = resolved([LUA[name].read_text() for name in SCRIPTS])
DEFINED_IN = {name: part for part in PARTS for each in definitions(part) for name in each.names}
MOST_LOCALS = 100
"""Of 200 that Lua allows a chunk: what is left is for the next capabilities."""


def test_every_part_is_needed_and_comes_once_and_after_all_that_it_needs() -> None:
    assert sorted(PARTS) == sorted(name.removeprefix("lib/") for name in LUA if name.startswith("lib/"))
    for position, part in enumerate(PARTS):
        assert set(needs_of(source(f"lib/{part}"))) <= set(PARTS[:position]), part


PLAIN_UNTIL = {
    "settle": (
        "then return end_lone(waiters)",
        {"Hooks", "Unique", "UniqueText", "LimitText", "Limits", "Numbers", "Finish"},
    ),
    "enqueue": ("then return note_all()", {"Adding", "Dispatch", "UniqueText", "Hooks"}),
    "enqueue_one": ("then return queue()", {"Dispatch"}),
}
"""By script, where it is done with a plain job for which no worker waits, and what is of no use until then."""


@pytest.mark.parametrize("name", PLAIN_UNTIL)
def test_a_script_makes_what_a_plain_job_does_not_need_only_after_that(name: str) -> None:
    """Without functions each call makes its definitions again: those of hooks take as long as a settle."""
    done, later = PLAIN_UNTIL[name]
    before = script(name).text.decode().partition(done)[0]
    assert before != script(name).text.decode()
    assert [table for table in sorted(later) if f"local {table} =" in before] == []


@pytest.mark.parametrize("name", LUA)
def test_a_script_or_part_says_which_parts_it_uses(name: str) -> None:
    """By name or through others: so a part gets its values through its functions' parameters only."""
    text = LUA[name].read_text()
    there = {*resolved([text]), name.removeprefix("lib/")}

    used = {DEFINED_IN[each] for each in names_in(text) & DEFINED_IN.keys()}
    assert used <= there
    assert set(needs_of(text)) <= used, "and names no others"


@pytest.mark.parametrize("part", PARTS)
def test_a_part_changes_nothing_of_what_it_defines(part: str) -> None:
    """What it defines outlives the calls where the server has it as a library."""
    names = "|".join(re.escape(each) for each in DEFINED_IN)
    for each in definitions(part):
        for line in each.text.splitlines()[1:]:
            assert not re.match(rf"\s*(?:{names})(?:\[.*\])?(?:, [\w.]+)* = ", line), line


BARE = {"call", "msgpack", "record_text_write", "record_text_read"}
"""Parts whose names are local variables: every call needs the first; for the others see docs/performance.md."""


@pytest.mark.parametrize("part", PARTS)
def test_a_part_hands_over_one_table(part: str) -> None:
    bare = {name for each in definitions(part) for name in each.names if "." not in name}
    assert part in BARE or len(bare - {"Field"}) == 1


def test_the_parts_leave_room_for_others() -> None:
    assert len({name for name in DEFINED_IN if "." not in name}) <= MOST_LOCALS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_command_gives_a_part_what_it_needs_as_arguments(name: str) -> None:
    """What a call gathers, in `q`, only the part that gathers it changes."""
    assert not re.findall(r"\bq\.[\w.]+(?:, [\w.]+)* = .*", LUA[name].read_text())


MORE_LOCALS, MORE_UPVALUES = 40, 20
"""For how many further names every command has room: Lua allows a function 200 locals and 60 upvalues."""


def with_more_names(code: Script | Library, more_locals: int, more_upvalues: int) -> str:
    """A script, or the library as a script; each command has so many further names, and uses so many of parts."""
    own = ", ".join(f"more_{n}" for n in range(more_locals))
    of_parts = ", ".join(f"more_of_parts_{n}" for n in range(more_upvalues))
    text, begin = re.sub(r"^#!.*", "", code.text.decode()), "local q = begin(KEYS)"
    assert begin in text
    return f"local {of_parts}\n{text.replace(begin, f'local {own} = {of_parts}; {begin}')}"


def test_every_command_leaves_room_for_more_names(redis_server: Database) -> None:
    """The server compiles them, and so counts their names."""
    with redis_server.client() as client:
        for code in (library(), *map(script, SCRIPTS)):
            client.script_load(with_more_names(code, MORE_LOCALS, MORE_UPVALUES))


@pytest.mark.parametrize(
    ("more", "limit"), [((200, 1), "more than 200 local variables"), ((1, 40), "more than 60 upvalues")]
)
def test_a_server_refuses_a_command_with_too_many_names(
    more: tuple[int, int], limit: str, redis_server: Database
) -> None:
    with redis_server.client() as client, pytest.raises(redis.ResponseError, match=limit):
        client.script_load(with_more_names(library(), *more))


TABLES = {name.partition(".")[0] for name in DEFINED_IN if "." in name}
FIELDS_OF_RECORDS = {f"Field.{name}" for name in re.findall(r"([A-Z_]+) = \d", source("lib/record"))}


@pytest.mark.parametrize("name", LUA)
def test_what_is_used_of_a_table_is_there(name: str) -> None:
    """What is not there would be nil, and noticed only where the server comes to it."""
    used = {each for each in names_in(LUA[name].read_text()) if each.partition(".")[0] in {*TABLES, "Field"}}
    assert {each for each in used if "." in each} <= DEFINED_IN.keys() | FIELDS_OF_RECORDS


def test_no_name_is_defined_twice() -> None:
    every = [name for part in PARTS for each in definitions(part) for name in each.names]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_header_names_the_arguments_that_the_script_reads(name: str) -> None:
    header = Header(name)
    loops = re.findall(r"for i = (\d+), #ARGV(?:, (\d+))? do", header.code)

    read = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", header.code)}
    assert read <= set(range(1, header.fixed + 1))
    assert set(re.findall(r"KEYS\[\d+\]", header.code)) == set(), "the base key is read by lib/call.lua"
    expected = [(str(header.fixed + 1), str(header.each))] if header.each else []
    assert sorted({(first, step or "1") for first, step in loops}) == expected, (
        "each loop goes through all of them"
    )


STEP = OperationStep(0, Act.RETRY, JobState.FAILED, 0, b"", 0)
ENTRY = OutboxEntry("1-1", "job", "job", b"")
FLOW_STEP = FlowStep(flow_id="f", rev=1, nodes=0, memo=b"")
SETTLEMENT = Settlement("job", 1, Verb.SUCCEEDED, THREE)
TICK = Tick(id="s", rev=1, jobs=[("s@1", 1, 1)], next_ms=2, overlap=Overlap.ALLOW, max_runs=0)
Call = Callable[[RedisStore, int], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "enqueue": lambda store, n: store.enqueue(QUEUE, [NewJob("job", CALL, nonce="n")] * n, again=n > 1),
    "enqueue_one": lambda store, n: store.enqueue(QUEUE, [NewJob("job", CALL, waiter="me" if n else "")]),
    "claim": lambda store, n: store.claim(QUEUE, "w", 5, [Token("normal", "1-1", ("job",))] * n),
    "room": lambda store, n: store.rooms.ask(QUEUE, "process", range(n), ()),
    "held": lambda store, _: holding.read_held(store._call, QUEUE, "w"),
    "hold": lambda store, n: holding.note_held(store._call, QUEUE, "w", ["job"] * n),
    "settle": lambda store, n: store.settle(QUEUE, "w", [SETTLEMENT] * n),
    "progress": lambda store, n: store.progress(QUEUE, "w", [("job", 1, b"")] * n),
    "promote": lambda store, _: store.promote(QUEUE, 5),
    "recover": lambda store, _: store.recover(QUEUE, b"", 5),
    "workers": lambda store, _: store.workers(QUEUE),
    "backlog": lambda store, _: store.shards.backlog(QUEUE),
    "wait": lambda store, n: store.wait(QUEUE, "me", ["job"] * n),
    "info": lambda store, n: store.info(QUEUE, ["job"] * n),
    "reschedule": lambda store, n: store.reschedule(QUEUE, ["job"] * n, delay_ms=5),
    "reopen": lambda store, n: store.operating.reopen(QUEUE, ["job"] * n),
    "history": lambda store, _: store.history.rows(QUEUE, 5),
    "stats": lambda store, _: store.history.statistics(QUEUE),
    "cancel": lambda store, n: store.cancel(QUEUE, ["job"] * n, REASON, 5),
    "move": lambda store, n: store.outbox.move(QUEUE, ["job"] * n, "post"),
    "outbox_read": lambda store, _: store.outbox.read(QUEUE, "post"),
    "outbox_deliver": lambda store, n: store.outbox.deliver(QUEUE, "post", Reading([ENTRY] * n)),
    "outbox_remove": lambda store, n: store.outbox.remove(
        QUEUE, "post", Reading([ENTRY] * n), DeliveryResult(["applied"] * n, "")
    ),
    "flow_write": lambda store, n: store.flows.write(QUEUE, "f", 0, [b"part"] * n),
    "flow_begin": lambda store, n: store.flows.begin(QUEUE, "f", FlowStart(b"", n, CALL, 0)),
    "flow_take": lambda store, n: store.flows.take(QUEUE, 5, ["f"] * n),
    "flow_parts": lambda store, n: store.flows.parts(QUEUE, "f", range(n)),
    "flow_apply": lambda store, n: store.flows.apply(QUEUE, [FLOW_STEP] * n),
    "flow_request": lambda store, _: store.flows.request(QUEUE, "f", "cancel"),
    "flow_list": lambda store, _: store.flows.listed(QUEUE, 5),
    "limit_change": lambda store, _: store.operating.limits.pause(QUEUE, "customer", "7", 0),
    "limit_wake": lambda store, _: store.operating.limits.wake(QUEUE, "customer"),
    "limit_list": lambda store, _: store.operating.limits.list(QUEUE),
    "limit_look": lambda store, n: store.operating.limits.look_at(QUEUE, "customer", ["7"] * n),
    "limit_keys": lambda store, _: store.operating.limits.keys(QUEUE, "customer", ""),
    "limit_blocked": lambda store, _: store.operating.story.blocked(QUEUE, "job"),
    "limit_hold": lambda store, _: store.operating.limits.hold(QUEUE, "w", "job", 1, [LimitUse("customer")]),
    "unique_owner": lambda store, _: store.operating.unique_owner(QUEUE, "sync:1"),
    "unique_hold": lambda store, _: store.operating.hold_unique(QUEUE, "w", "job", 1, Lock("sync:1")),
    "unique_release": lambda store, _: store.operating.release_unique(QUEUE, "sync:1"),
    "outbox_look": lambda store, n: store.outbox.look(QUEUE, "post", [MovedJob("job", QUEUE, "1 ")] * n),
    "outbox_lost": lambda store, n: store.outbox.lost(QUEUE, "post", ["job"] * n),
    "ask": lambda store, _: store.operating.control.ask(QUEUE, "w", "name\nwhat"),
    "delete": lambda store, n: store.operating.delete(QUEUE, ["job"] * n, REASON),
    "prioritize": lambda store, n: store.operating.prioritize(QUEUE, ["job"] * n, Priority.LOW),
    "count": lambda store, _: store.operating.now_ms(QUEUE),
    "pause": lambda store, n: store.operating.pauses.resume(QUEUE, ["shop.add"] * n),
    "pauses": lambda store, _: store.operating.pauses.read(QUEUE),
    "list_lane": lambda store, _: store.operating.list_jobs(QUEUE, ListQuery(JobState.QUEUED), (), 5),
    "list_sorted": lambda store, _: store.operating.list_jobs(QUEUE, ListQuery(JobState.FAILED), (), 5),
    "list_waiting": lambda store, _: store.operating.list_jobs(QUEUE, ListQuery(JobState.WAITING), (), 5),
    "operation_write": lambda store, _: store.operating.operations.write("op", b"", 0),
    "operation_read": lambda store, n: store.operating.operations.read(["op"] * n),
    "operation_update": lambda store, _: store.operating.operations.permit("op", "w", 5),
    "operation_remind": lambda store, _: store.operating.operations.remind(QUEUE, "op", 5),
    "operation_step": lambda store, n: store.operating.operations.step(
        QUEUE, "op", msgspec.structs.replace(STEP, jobs=[("job", b"")] * n)
    ),
    "list_records": lambda store, n: store.operating._call("list_records", QUEUE, ["", *["job"] * n]),
    "limiter_take": lambda store, n: store.limiters.take("api", Take(member="w", needs=[1] * n)),
    "limiter_read": lambda store, _: store.limiters.state("api"),
    "log": lambda store, n: store.operating.story.log(QUEUE, "w", [LoggedLines("job", 1, [b"x"])] * n),
    "events": lambda store, n: store.operating.story.events(QUEUE, Position(n, n, 0), listens=n > 0),
    "log_read": lambda store, _: store.operating.story.log_lines(QUEUE, "job", 0),
    "schedule_read": lambda store, n: store.timetable.read(QUEUE, ["s"] * n),
    "schedule_write": lambda store, n: store.timetable.write(QUEUE, [Entry(id="s")] * n),
    "schedule_pass": lambda store, _: store.timetable.pass_leadership(QUEUE),
    "schedule_declare": lambda store, _: store.timetable.note_declaration(QUEUE, 0, "ab"),
    "schedule_owners": lambda store, n: store.timetable.owners(QUEUE, ["s"] * n),
    "schedule_tick": lambda store, n: store.timetable.tick(QUEUE, [TICK] * n),
}
OF_THE_APP = {"operation_write", "operation_read", "operation_update"}
OF_LIMITERS = {"limiter_take", "limiter_read"}
REPLIES: dict[str, Callable[[int], Any]] = {
    "flow_begin": lambda _: [1, 0],
    "flow_take": lambda _: [0],
    "flow_parts": lambda n: [b""] * n,
    "flow_request": lambda _: 1,
    "flow_list": lambda _: [[0, b"", b""]],
    "enqueue_one": lambda n: int(n > 0),
    "claim": lambda _: [[-1, -1], 0, 0],
    "promote": lambda _: [0, [-1, -1], b"", 0],
    "schedule_read": lambda _: [0, -1, b"0"],
    "workers": lambda _: [b"0"],
    "backlog": lambda _: [0] * 6,
    "ask": lambda _: [0],
    "held": lambda _: [b"0"],
    "schedule_write": lambda _: [1],
    "schedule_declare": lambda _: [1, b"ab", b"", 0],
    "schedule_owners": lambda n: [b"0", b"\x90", b"", b"", *[b""] * n],
    "schedule_tick": lambda n: [-1] * (n + 1),
    "recover": lambda _: [b"", 0, 0, b"0"],
    "outbox_read": lambda _: [[1, 0, 1]],
    "outbox_deliver": lambda n: [[b"", []], *[b"applied"] * n],
    "outbox_remove": lambda _: [0],
    "outbox_look": lambda _: [0],
    "limit_change": lambda _: 1,
    "limit_wake": lambda _: b"0",
    "limit_list": lambda _: [[], [], []],
    "limit_look": lambda n: [[0, 0, 0, b"-1"]] * n,
    "limit_keys": lambda _: [b""],
    "limit_blocked": lambda _: [],
    "limit_hold": lambda _: 1,
    "unique_owner": lambda _: b"",
    "unique_release": lambda _: b"",
    "unique_hold": lambda _: b"",
    "info": lambda n: [[]] * n,
    "count": lambda _: [0, 0, 1, b"0"],
    "pause": lambda _: b"0",
    "pauses": lambda _: [0],
    "list_lane": lambda _: [b"", b"", b"", 1],
    "operation_write": lambda _: 1,
    "operation_read": lambda _: [0],
    "operation_step": lambda _: [b"done", 0, b"", 0, 0, 0],
    "list_waiting": lambda _: [b"0"],
    "history": lambda _: [0],
    "events": lambda _: [0, 0, 0, -1, [], []],
    "stats": lambda _: [0, 0, -1],
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("number", [0, 1, 3])
async def test_the_caller_sends_what_the_header_names(
    name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisStore("shop", "redis://nowhere", shown_url="-", limits=Limits())
    calls: list[tuple[str, str, int]] = []

    async def call(script_name: str, key: str, args: Sequence[object], _: object) -> Any:
        calls.append((script_name, key, len(args)))
        return REPLIES.get(script_name, lambda _: [])(number)

    async def begin(script_name: str, key: str, args: Sequence[object], read: Callable[[Any], Any]) -> Any:
        return read(await call(script_name, key, args, None))

    async def nothing(*_: object) -> None: ...

    monkeypatch.setattr(store._link, "call", call)
    monkeypatch.setattr(store._link, "begin", begin)
    monkeypatch.setattr(store._timetable._register, "_command", nothing)
    await CALLS[name](store, number)

    header = Header(name)
    key = "aioq:{shop:}" if name in OF_THE_APP else "aioq:{shop:mail}"
    key = "aioq:{shop:limiter:api}" if name in OF_LIMITERS else key
    assert calls == [(name, key, header.fixed + header.each * number)]


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["", "join", "sweep"])
async def test_the_lease_client_sends_what_the_header_names(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lease_client = leases.RedisLeaseClient("redis://nowhere", "-", "shop", Limits(), Failover(), calls=Calls())
    sent: list[Sequence[object]] = []

    def exchange(commands: Sequence[Sequence[object]]) -> list[object]:
        sent.extend(commands)
        return [[[-1, -1], 0, 0, 1]]

    monkeypatch.setattr(lease_client, "_exchange", exchange)
    if mode == "join":
        lease_client.join(QUEUE, "w")
    else:
        lease_client.renew(QUEUE, "w", sweep=mode == "sweep")

    (called, *keys, key) = sent[0][:4]
    args = sent[0][4:]
    assert (called, keys, key) == ("FCALL", [library().functions["renew"], 1], "aioq:{shop:mail}")
    assert len(args) == Header("renew").fixed
    assert args[-1] == mode


@pytest.mark.anyio
async def test_the_lease_client_sends_what_the_header_of_limiters_names(monkeypatch: pytest.MonkeyPatch) -> None:
    lease_client = leases.RedisLeaseClient("redis://nowhere", "-", "shop", Limits(), Failover(), calls=Calls())
    sent: list[Sequence[object]] = []

    def exchange(commands: Sequence[Sequence[object]]) -> list[object]:
        sent.extend(commands)
        return [2]

    monkeypatch.setattr(lease_client, "_exchange", exchange)
    assert lease_client.renew_permits([PermitLease("api", "w")]) == [2]
    (called, function, keys, key, *args) = sent[0]
    assert (called, function) == ("FCALL", library().functions["limiter_renew"])
    assert (keys, key) == (1, "aioq:{shop:limiter:api}")
    assert len(args) == Header("limiter_renew").fixed


def test_every_script_is_called_and_every_called_script_is_there() -> None:
    called: set[str] = set()
    for path in Path(aioq.store.redis.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in {
                    "_begin",
                    "_call",
                    "_call_all",
                    "_call_some",
                    "_call_retried",
                    "call_retried",
                    "call_confirmed",
                    "_call_confirmed",
                    "call",
                    "script",
                }:
                    called.add(str(node.args[0].value))

    assert called == set(SCRIPTS)
    assert called == {*CALLS, "renew", "limiter_renew"}, "each has its caller held against its header above"


def test_the_lanes_are_the_same_in_lua_and_in_python() -> None:
    lanes = re.search(r"^Keys.LANES = \{([^}]*)\}", LUA["lib/keys"].read_text(), re.MULTILINE)

    assert lanes
    assert tuple(re.findall(r"'([^']+)'", lanes[1])) == keys.LANES


def test_the_streams_of_what_was_set_aside_are_the_same_in_lua_and_in_python() -> None:
    text = LUA["lib/keys"].read_text()
    prefix = re.search(r"function Keys.aside_of\(stream\) return '([^']+)' .. stream end", text)
    streams = re.search(r"Keys\.ASIDE = \{([^}]*)\}", text)

    assert prefix
    assert streams
    assert prefix[1] == keys.ASIDE_OF
    assert tuple(prefix[1] + each for each in re.findall(r"Keys.aside_of\('([^']+)'\)", streams[1])) == keys.ASIDE


def test_what_keys_begin_with_is_spelled_once_in_each_language() -> None:
    package = Path(aioq.__path__[0])
    for start, paths in (
        (keys.ASIDE_OF, ["store/redis/keys.py", LUA_KEYS]),
        ("aioq:{", ["store/pubsub.py", LUA_KEYS]),
    ):
        files_with = [
            path for path in package.rglob("*.*") if path.suffix in {".py", ".lua"} and start in path.read_text()
        ]
        assert sorted(str(path.relative_to(package)) for path in files_with) == sorted(paths)


def test_the_names_of_keys_are_the_same_in_lua_and_in_python() -> None:
    text = LUA["lib/keys"].read_text()
    ones = re.findall(r"':([a-z]+)'", "\n".join(re.findall(r"^Keys\.[A-Z, Keys.]+ = (':.*)$", text, re.MULTILINE)))
    many = re.findall(r"^function Keys\.\w+\(q, \w+\) return q.base .. ':([a-z]+):'", text, re.MULTILINE)

    of_python = {keys.SYNCED, keys.SCHEDULE_QUEUES, keys.SERVED, keys.SHARDS, keys.LIMITERS}
    assert {*ones, *keys.LANES, *keys.ASIDE} | of_python == keys.ONES
    assert set(many) - {"worker", "dispatched", "permit", "room"} == keys.MANY, "and four channels"


def constants(name: str) -> dict[str, str]:
    """The constants of a part or a command, and what each is set to."""
    pattern = re.compile(r"^(?:local )?((?:\w+\.)?[A-Z][\w., ]*) = (.*?),?(?: --.*)?$", re.MULTILINE)
    both = [(names.split(", "), values) for names, values in pattern.findall(LUA[name].read_text())]
    return {
        each: value
        for names, values in both
        for each, value in zip(names, values.split(", ") if len(names) > 1 else [values], strict=False)
    }


SAME_NUMBERS = {
    ("claim", "ASIDE_COST"): ASIDE_COST,
    ("claim", "CLAIM_LIMIT"): CLAIM_LIMIT,
    ("claim", "SKIPPED_LIMIT"): SKIPPED_LIMIT,
    ("promote", "HOLD"): HOLD_MS,
    ("renew", "ANSWER_TTL"): ANSWER_TTL_MS,
    ("schedule_write", "KEPT_MS"): memory_schedules.KEPT_MS,
    ("settle", "MAX_CUTS"): MAX_CUTS,
    ("wait", "MAX_WAITERS"): MAX_WAITERS,
    ("wait", "WAIT_LIMIT"): WAIT_LIMIT,
    ("lib/entries", "Entries.NAMED_LIMIT"): replies.NAMED_LIMIT,
    ("lib/events", "Events.MOST"): MOST_LIVE,
    ("lib/history", "History.HOUR"): history.HOUR_MS,
    ("lib/history", "History.HOUR_KEPT"): history.HOUR_KEPT_MS,
    ("lib/history", "History.LAST_BUCKET"): history.LAST_BUCKET,
    ("lib/history", "History.MINUTE"): history.MINUTE_MS,
    ("lib/history", "History.MINUTE_KEPT"): history.MINUTE_KEPT_MS,
    ("lib/history", "History.MOST_ATTEMPTS"): history.MOST_ATTEMPTS,
    ("lib/history", "History.PLACES_SIZE"): PLACES_SIZE,
    ("lib/history", "History.SENT"): history.SENT,
    ("lib/history", "History.SUMMED"): history.SUMMED,
    ("lib/history", "History.TIMES_SIZE"): TIMES_SIZE,
    ("lib/record_text_write", "BODY_LIMIT"): BODY_LIMIT,
    ("lib/results", "Results.MESSAGE_LIMIT"): MESSAGE_LIMIT,
}
"""The numbers that a part or a command has, and Python too."""


@pytest.mark.parametrize(
    ("where", "number"), SAME_NUMBERS.items(), ids=lambda each: "-".join(each) if isinstance(each, tuple) else ""
)
def test_a_number_is_the_same_in_lua_and_in_python(where: tuple[str, str], number: int) -> None:
    name, constant = where
    factors = constants(name)[constant].split(" * ")
    assert math.prod(map(int, factors)) == SAME_NUMBERS[name, constant]


def test_the_counters_of_ends_are_the_same_in_lua_and_in_python() -> None:
    counters = re.findall(r"(\w) = (\d)", constants("lib/history")["History.COUNTER_OF"])
    assert {letter: int(counter) for letter, counter in counters} == history.COUNTER_OF


@pytest.mark.parametrize("name", LUA)
def test_a_large_number_has_a_name(name: str) -> None:
    """But for 1,000 and its square, between units of time, and 256 between the bytes of a number."""
    named = {number for value in constants(name).values() for number in re.findall(r"\d+", value)}
    code = re.sub(r"--.*|'(?:[^'\\\n]|\\.)*'", "", LUA[name].read_text())
    bare = set(re.findall(r"(?<![\w.])\d{3,}(?![\w.])", code)) - named
    assert bare <= {"256", "999", "1000", "1000000"} | ({"65536"} if name == "lib/msgpack" else set())


def test_what_a_lost_lease_is_answered_with_is_the_same_in_lua_and_in_python() -> None:
    for name in ("claim", "renew"):
        assert f"return {{{replies.LEASE_LOST}}}" in LUA[name].read_text()


def test_a_script_is_named_by_the_hash_of_all_of_its_text() -> None:
    for name in SCRIPTS:
        code = script(name)
        assert code.sha == hashlib.sha1(code.text).hexdigest()
    assert len({script(name).sha for name in SCRIPTS}) == len(SCRIPTS)


def test_a_script_has_of_its_parts_what_it_uses_and_nothing_else() -> None:
    info = script("info").text.decode()

    assert "function Keys.job(" in info, "by way of `Newer.read`"
    assert "function Newer.read(" in info
    assert "function Newer.put_off(" not in info
    assert "XADD" not in info


def test_a_script_defines_what_it_uses_when_it_comes_to_it() -> None:
    settle = script("settle").text.decode()

    assert settle.index("return {}\n") < settle.index("function Finish.finish("), (
        "a lone job has been settled by then"
    )


def test_the_library_has_every_definition_once() -> None:
    text = library().text.decode()
    assert [text.count(f"function {name}(") for name in ("begin", "Keys.job", "Record.load")] == [1, 1, 1]
    assert {*library().functions} == set(SCRIPTS)
    for function in library().functions.values():
        assert text.count(f"function_name = '{function}'") == 1


def test_only_commands_that_write_nothing_are_said_to() -> None:
    writes = {
        "DEL",
        "HDEL",
        "HINCRBY",
        "HSET",
        "MSET",
        "MSETNX",
        "PERSIST",
        "PEXPIRE",
        "PUBLISH",
        "SADD",
        "SET",
        "SREM",
    }
    writes |= {
        "UNLINK",
        "XACK",
        "XADD",
        "XDEL",
        "XGROUP",
        "XREADGROUP",
        "XTRIM",
        "ZADD",
        "ZREM",
        "ZREMRANGEBYRANK",
    }
    for name in SCRIPTS:
        called = set(re.findall(r"redis\.p?call\('(\w+)'", script(name).text.decode()))
        assert (name in READS_ONLY) == (not called & writes), name


def flush(client: Any) -> None:
    """Have the server forget scripts and functions."""
    client.script_flush()
    with suppress(redis.ResponseError):  # 6.2 has no functions
        client.function_flush()


@pytest.mark.anyio
async def test_a_server_that_forgot_its_scripts_gets_them_again(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    """As after a restart, or a failover to a replica that never heard of them."""
    assert redis_backend.database is not None
    for round_ in range(2):
        with redis_backend.database.client() as client:
            flush(client)
        await joined(redis_store, "w")
        assert not (await keep(redis_store, "w")).lost
        assert await send(redis_store, f"job-{round_}") == [True]
        job = await take_one(redis_store, "w")
        assert await settle(redis_store, "w", job, Verb.SUCCEEDED, THREE)
        assert (await info(redis_store, job.id)).worker == "w"


@pytest.mark.anyio
@pytest.mark.parametrize("connects_anew", [False, True])
@pytest.mark.parametrize("first", ["one", "several"])
async def test_what_is_sent_next_overtakes_nothing_where_the_server_knows_its_script_only(
    redis_store: RedisStore, redis_backend: Backend, first: str, connects_anew: bool
) -> None:
    """One job and several have a script each; after a restart another process may have loaded one of the two."""
    assert redis_backend.database is not None
    other = await redis_backend.open()
    one, several = [NewJob("a", CALL)], [NewJob("b", CALL), NewJob("c", CALL)]
    order = [one, several] if first == "one" else [several, one]
    await joined(redis_store, "w")
    for jobs in order:
        await redis_store.enqueue(QUEUE, jobs)
    await take(redis_store, "w")

    with redis_backend.database.client() as client:
        flush(client)
    teller = other if connects_anew else redis_store
    await teller.enqueue(QUEUE, [NewJob(f"known-{job.id}", CALL) for job in order[1]])
    if connects_anew:
        pipe = redis_store._link._pipe
        assert pipe is not None
        pipe.close()
    known = ids(await take(other, "w"))
    sends = [redis_store.enqueue(QUEUE, [NewJob(f"next-{job.id}", CALL) for job in jobs]) for jobs in order]
    await asyncio.gather(*sends)
    assert known == [f"known-{job.id}" for job in order[1]]
    assert ids(await take(redis_store, "w")) == [f"next-{job.id}" for jobs in order for job in jobs]
