"""aioq's commands as functions of a server: who calls them, that versions live side by side, that no call leaves
anything to the next.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import redis

from aioq.errors import ServerError, ServerUnavailableError
from aioq.jobs.job import JobInfo, JobState, Priority
from aioq.store.columns import NewJobs
from aioq.store.contract import Claimed, Limits, NewJob, Settlement, Verb
from aioq.store.events import Position
from aioq.store.extra import Extra, LimitUse, Lock, MovedJob
from aioq.store.flows import FlowStart
from aioq.store.limiters import LimiterRule, PermitLease, Take
from aioq.store.operating import LISTED_STATES, ListQuery
from aioq.store.operations import Act, OperationStep, Verdict
from aioq.store.outbox import Reading
from aioq.store.redis import RedisStore
from aioq.store.redis.calls import Calls
from aioq.store.redis.errors import translate
from aioq.store.redis.scripts import library, script
from aioq.store.rooms import Place
from aioq.store.schedules import Entry, Overlap, Tick
from aioq.store.story import LoggedLines
from tests.contract.flows import node, step
from tests.contract.kit import BROKEN, CALL, CRASHED, LONG, QUEUE, REASON, THREE, joined
from tests.servers import Server, available

pytestmark = pytest.mark.anyio

StartServer = Callable[..., Server]
NAMES = [name for name in available() if name != "redis-6.2"]
each_server = pytest.mark.parametrize("name", NAMES)
LIMITS = Limits(lease_ms=LONG)


@pytest.fixture
async def stores() -> AsyncIterator[Callable[[str], RedisStore]]:
    made: list[RedisStore] = []

    def make(url: str) -> RedisStore:
        made.append(RedisStore("shop", url, shown_url="-", limits=LIMITS))
        return made[-1]

    yield make
    for store in made:
        await store.close()


def called(client: redis.Redis) -> dict[str, int]:
    """How often each way to call was used, without what failed."""
    stats: Any = client.info("commandstats")
    ways = ("fcall", "eval", "evalsha", "function|load")
    return {way: row["calls"] for way in ways if (row := stats.get(f"cmdstat_{way}")) is not None}


@pytest.mark.parametrize(
    "text",
    [
        "unknown command 'FCALL', with args beginning with: 'aioq' ",
        "unknown command `FCALL`",
        "unsupported command 'fcall'",
        "Command is not available: 'FCALL'. See https://upstash.com/docs for details",
        "This user has no permissions to run the 'fcall' command",
    ],
)
async def test_scripts_do_where_a_server_or_a_proxy_says_that_it_has_no_functions(text: str) -> None:
    calls = Calls()
    assert calls.should_repeat(redis.ResponseError(text))
    assert calls.command("info", ["aioq:{shop:mail}"])[0] == "EVAL"
    assert calls.load is None
    assert calls.probe is None


@pytest.mark.parametrize(
    "text",
    [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "WRONGTYPE Operation against a key script: aioq_0_info, on @user_function:12.",
        "BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.",
    ],
)
async def test_functions_stay_where_a_call_of_one_has_failed(text: str) -> None:
    calls = Calls()
    assert not calls.should_repeat(redis.ResponseError(text))
    assert calls.command("info", ["aioq:{shop:mail}"])[0] == "FCALL"


async def test_functions_stay_where_the_library_is_refused_for_now() -> None:
    calls = Calls()
    assert calls.should_repeat(redis.ResponseError("ERR Function not found"))
    calls.library_answered(redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'."))
    assert calls.is_refused
    assert calls.command("info", ["aioq:{shop:mail}"])[0] == "FCALL"
    assert calls.load is not None

    calls.library_answered(b"aioq_0")

    assert not calls.is_refused
    assert calls.load is None


async def test_a_server_that_forgets_functions_as_often_as_it_gets_them_is_asked_again_later() -> None:
    assert type(translate(redis.ResponseError("ERR Function not found"), "-")) is ServerUnavailableError


@each_server
async def test_every_call_is_one_of_a_function_that_is_loaded_once(
    name: str, stores: Callable[[str], RedisStore], start_server: StartServer
) -> None:
    server = start_server(name)
    first, second = stores(server.url), stores(server.url)
    await tour(first, "one")
    await tour(second, "two")

    with server.client() as client:
        ways = called(client)
        libraries: Any = client.function_list()
    assert ways.pop("fcall") > 40
    assert ways == {"function|load": 1}
    assert len(libraries) == 1


@each_server
async def test_two_versions_of_aioq_share_a_server(
    name: str, stores: Callable[[str], RedisStore], start_server: StartServer
) -> None:
    server = start_server(name)
    found = re.match(rb"#!lua name=aioq_(\w+)\n", library().text)
    assert found
    another = b"0" * len(found[1])
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        client.execute_command("FUNCTION", "LOAD", library().text.replace(found[1], another))
        store = stores(server.url)
        await joined(store, "w", QUEUE)
        await store.enqueue(QUEUE, [NewJob("a", CALL)])
        function = library().functions["claim"].replace(found[1].decode(), another.decode())
        claimed: Any = client.execute_command("FCALL", function, 1, "aioq:{shop:mail}", "w", "5", "", "", "")
        assert claimed[3] == b"a"
        settlement = Settlement("a", claimed[1], Verb.SUCCEEDED, THREE, 0, LONG)
        assert await store.settle(QUEUE, "w", [settlement]) == [True]
        libraries: Any = client.execute_command("FUNCTION", "LIST")
        assert len(libraries) == 2


@each_server
async def test_no_function_leaves_anything_to_the_next_call(
    name: str, stores: Callable[[str], RedisStore], start_server: StartServer
) -> None:
    """What is defined above the functions outlives calls, and errors that end them half-way."""
    server = start_server(name)
    full = stores(server.url)
    texts = b"".join(script(each).text for each in library().functions)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "on", ">secret", "~*", "&*", "+@all")
        limited = stores(f"unix://shop:secret@{server.socket}")
        expected = await tour(full, "queue-before")
        for word in sorted({word.decode() for word in re.findall(rb"redis\.p?call\('(\w+)'", texts)}):
            client.execute_command("ACL", "SETUSER", "shop", "+@all", f"-{word}")
            await tour(limited, f"queue-without-{word}", bears=(ServerError,))
            assert await tour(full, f"queue-after-{word}") == expected, word


OF_NOW = re.compile(r"\d{10,}(?:-\d+)?|_ms=\d+|datetime\([^)]*\)")
"""What differs each time: times, and ids that begin with one."""


async def _looked_for(store: RedisStore, queue: str) -> object:
    """What becomes of jobs that were moved."""
    found = await store.outbox.look(queue, "post", [MovedJob("g", queue, "1 ")])
    return found, await store.outbox.lost(queue, "post", ["g", "h"])


async def _asked(store: RedisStore, queue: str) -> object:
    """What a worker has answered."""
    control, request = store.operating.control, "name\nwhat"
    found = await control.ask(queue, "w", request), await control.withdraw(queue, "w", request)
    return [*found, await store.operating.reopen(queue, list("abc"))]


async def _operated(store: RedisStore, queue: str) -> object:
    """What becomes of a bulk operation."""
    operations, at = store.operating.operations, await store.operating.now_ms(queue)
    answers = [await operations.write(queue, b"", 0.0), await operations.permit(queue, "w", 5)]
    step = OperationStep(0, Act.SET_PRIORITY, JobState.QUEUED, at, b"", 3, [(each, b"high") for each in "abc"])
    verdict = Verdict.EARLY
    while verdict is Verdict.EARLY:
        verdict, note = await operations.step(queue, queue, step)
        answers += [note] * (verdict is Verdict.DONE)
    await operations.remind(queue, queue, 0)
    answers += [list((await store.promote(queue, 10)).operations), await operations.read([queue])]
    await operations.remind(queue, queue, None)
    return answers


async def _tasks(store: RedisStore, queue: str) -> list[str]:
    """The tasks that have statistics."""
    return list((await store.history.statistics(queue)).hour.tasks)


async def _tells(store: RedisStore, queue: str, job: Claimed) -> object:
    """What a running job says of itself."""
    progress = await store.progress(queue, "w", [(job.id, job.claim, b"\x91\x01")])
    return progress, await store.operating.story.log(queue, "w", [LoggedLines(job.id, job.claim, [b"x"])])


async def _shown(store: RedisStore, queue: str) -> object:
    """What is known of single jobs; the first one stands in no lane, so that its place is estimated."""
    story, far = store.operating.story, JobInfo(id="none", queue=queue, task="", state=JobState.QUEUED)
    part = await story.events(queue, Position(1, 1, 0), listens=True, watches=True)
    rows = [(each.job_id, each.end) for each in part.rows], [(each.job_id, each.what) for each in part.live]
    lines = await story.log_lines(queue, "a", 0)
    return await story.ahead(queue, far), await story.held_by(queue, "s@2"), lines, rows


async def listed(store: RedisStore, queue: str, state: JobState) -> list[str]:
    """The ids of a list, which has places too: these differ each time."""
    items = (await store.operating.list_jobs(queue, ListQuery(state), (), 5)).items
    return [item.info.id for item in items if item.info]


async def tour(store: RedisStore, queue: str, *, bears: tuple[type[Exception], ...] = ()) -> list[str]:
    """Call every command, and give the answers without what differs each time.

    Args:
        store: where.
        queue: a queue that nobody has used.
        bears: errors that end one call and not the others.
    """
    answers: list[str] = []

    async def add(call: Any) -> Any:
        with suppress(*bears):
            answer = await call
            answers.append(OF_NOW.sub("N", repr(answer)).replace(queue, "Q"))
            return answer
        return None

    with suppress(*bears):
        await store.operating.story.events(queue, None, listens=True, watches=True)
        await joined(store, "w", queue)
    timetable = store.timetable
    await add(
        store.enqueue(queue, [NewJob("a", CALL, waiter="me"), NewJob("b", CALL), NewJob("c", CALL, delay_ms=1)])
    )
    await add(store.enqueue(queue, [NewJob("d", b"x" * 3000)]))
    await add(store.enqueue(queue, [NewJob("e", CALL), NewJob("e", CALL)], again=True))
    await add(store.enqueue(queue, [NewJob("f", CALL)]))
    await add(store.wait(queue, "me", ["a", "f", "none"]))
    await add(store.reschedule(queue, ["f"], delay_ms=LONG))
    claim = await add(store.claim(queue, "w", 3, known=[]))
    for job, verb in zip(claim.jobs if claim else [], (Verb.SUCCEEDED, Verb.FAILED, Verb.RETRY), strict=False):
        await add(_tells(store, queue, job))
        await add(store.settle(queue, "w", [Settlement(job.id, job.claim, verb, BROKEN, LONG, LONG)]))
    await add(store.cancel(queue, ["e", "f", "none"], REASON, LONG))
    await add(store.promote(queue, 10))
    await add(timetable.write(queue, [Entry(id="s", definition=b"any", envelope=CALL, next_ms=1)]))
    agenda = await add(timetable.due(queue, 9))
    for due in agenda.entries if agenda else []:
        jobs = [("s@1", 1, 1), ("s@2", 2, 2)]
        tick = Tick(id="s", rev=due.rev, jobs=jobs, next_ms=2, overlap=Overlap.ONE, max_runs=0)
        await add(timetable.tick(queue, [tick]))
    await add(timetable.note_declaration(queue, 0, "ab", worker="w", ids=["s"]))
    await add(timetable.owners(queue, ["s"]))
    await add(timetable.pass_leadership(queue))
    await add(store.enqueue(queue, [NewJob("g", CALL), NewJob("h", CALL, delay_ms=LONG)]))
    await add(store.outbox.move(queue, ["g", "h"], "post"))
    await add(store.cancel(queue, ["g"], REASON, LONG))
    reading = Reading()
    with suppress(*bears):
        reading = await store.outbox.read(queue, "post")
    answers.append(str(len(reading.entries)))
    delivery = await add(store.outbox.deliver(queue, "post", reading))  # its sender: as if they were there
    if delivery:
        await add(store.outbox.remove(queue, "post", reading, delivery))
    for ask in (_looked_for, _asked, _shown, _operated):
        await add(ask(store, queue))
    for state in LISTED_STATES:
        await add(asyncio.gather(listed(store, queue, state), store.operating.count_jobs(queue, ListQuery(state))))
    await add(store.operating.prioritize(queue, list("abc"), Priority.HIGH))
    await add(store.operating.delete(queue, list("abc"), REASON))
    for ask in (_paused, _limited, _unique, _in_groups, _with_rooms, _in_a_flow):
        await add(ask(store, queue))
    await add(store.recover(queue, CRASHED, 100, dead="w"))
    await add(asyncio.gather(store.workers(queue), store.history.rows(queue, 100)))
    await add(_tasks(store, queue))
    await add(store.info(queue, list("abcdef")))
    return answers


async def _limited(store: RedisStore, queue: str) -> list[Any]:
    rule = LimiterRule(rate=1, per_ms=LONG, burst=2, concurrency=1)
    await store.limiters.listen(queue, "v", lambda: None)
    said = [await store.limiters.take(queue, Take(member=each, rule=rule, needs=[1, 1])) for each in "wv"]
    client = store.lease_client()
    try:
        renewed = await asyncio.to_thread(client.renew_permits, [PermitLease(queue, "w")])
    finally:
        client.close()
    await store.limiters.take(queue, Take(member="w"))
    await store.limiters.leave(queue, "v")
    return [len(said), renewed, (await store.limiters.state(queue)) is not None]


async def _in_a_flow(store: RedisStore, queue: str) -> list[Any]:
    """What becomes of a flow of three nodes, one of them in another queue."""
    flows, ended = store.flows, (JobState.FAILED, BROKEN)
    await flows.write(queue, "flow", 0, [b"part"])
    found: list[Any] = [await flows.begin(queue, "flow", FlowStart(b"head", 3, b"x" * 3000, 1, waiter="me"))]
    (work,) = await flows.take(queue, flow_ids=["flow"])
    jobs = [node(n, queue if n else "post", flow_id="flow", key="key" if n else "") for n in range(3)]
    one = step(work, jobs=jobs, states=[(0, b">>>")], nodes=5, parts={1: b"more"}, further=["words"])
    found += await flows.apply(queue, [one])
    for job in (await store.claim(queue, "w", 9)).jobs:
        settlement = Settlement(job.id, job.claim, Verb.SUCCEEDED, b"x" * 3000, 0, LONG)
        found += await store.settle(queue, "w", [settlement])
    found += [await flows.request(queue, "flow", "any"), await flows.parts(queue, "flow", [0, 1, 2])]
    (work,) = await flows.take(queue, flow_ids=["flow"])
    found += [sorted(work.items), await flows.outcomes(queue, [each.job.id for each in jobs])]
    forget = [each.job.id for each in jobs]
    one = step(work, cancel=forget, cancel_outcome=REASON, end=ended, forget=forget, over=True, ttl_ms=LONG)
    found += await flows.apply(queue, [one])
    found += [await flows.request(queue, "flow", "retry"), len(await flows.listed(queue, 5))]
    (work,) = await flows.take(queue, flow_ids=["flow"])
    found += await flows.apply(queue, [step(work, reopen=True, keep=forget, look_ms=1)])
    (work,) = await flows.take(queue, flow_ids=["flow"])
    found += await flows.apply(queue, [step(work, end=ended, over=True, ttl_ms=0)])
    return [*found, await flows.take(queue, flow_ids=["flow"])]


async def _paused(store: RedisStore, queue: str) -> list[Any]:
    """What a claim finds while the queue, or a task, is paused."""
    found: list[Any] = []
    for tasks in [], ["shop.add"]:
        await store.operating.pauses.pause(queue, tasks)
        found += [await store.operating.pauses.read(queue), await store.claim(queue, "w", 1, known=[])]
        await store.operating.pauses.resume(queue, tasks)
    return [*found, await store.shards.backlog(queue)]


async def _with_rooms(store: RedisStore, queue: str) -> list[Any]:
    """A send that waits for room, and what it hears when it asks."""
    bounded = msgspec.structs.replace(store._limits, max_size=1, waits=True)
    store._limits = msgspec.structs.replace(store._limits, by_queue={queue: bounded})
    jobs = NewJobs([NewJob("r1", CALL), NewJob("r2", CALL)])
    jobs.place = Place("process", 1)
    found: list[Any] = [await store.enqueue(queue, jobs), await store.rooms.ask(queue, "process", [1, 2], [])]
    return [*found, await store.claim(queue, "w", 9), await store.rooms.ask(queue, "process", [], [1])]


async def _in_groups(store: RedisStore, queue: str) -> list[Any]:
    """Jobs that wait for a permit or a rate; one that is dropped, and one whose sender knew no limit."""
    verbs, customer = store.operating.limits, LimitUse("customer", "7", 1, declared_ms=1)
    api = LimitUse("api", rate=1, per_us=LONG * 1000, burst=1, declared_ms=1)
    uses = (customer,), (customer, api), (api,), (msgspec.structs.replace(customer, on_limit="drop"),)
    jobs = [NewJob(f"l{at}", CALL, extra=Extra(limits=each)) for at, each in enumerate(uses)]
    found: list[Any] = [await store.enqueue(queue, [*jobs, NewJob("plain", CALL)])]
    claimed = (await store.claim(queue, "w", 9)).jobs
    found += [job.id for job in claimed]
    found += [await verbs.hold(queue, "w", job.id, job.claim, [api]) for job in claimed if job.id == "plain"]
    found += [await store.operating.story.blocked(queue, "l1"), await verbs.look(queue, "api", "")]
    found += [await verbs.list(queue), await verbs.keys(queue, "customer", "")]
    await verbs.pause(queue, "customer", None, 0)
    found.append(await verbs.resume(queue, "customer", None))
    return [*found, await store.info(queue, ["l0", "l1", "l2", "l3", "plain"])]


async def _unique(store: RedisStore, queue: str) -> list[Any]:
    """Who holds a unique key: a job that runs, one that follows it, one that is replaced; and after a release."""
    lock, timed = Extra(unique=Lock("k", conflict="latest")), Extra(unique=Lock("t", "within", "replace", LONG))
    first = NewJob("u1", CALL, extra=lock)
    found: list[Any] = [await store.enqueue(queue, [first, NewJob("t1", CALL, delay_ms=LONG, extra=timed)])]
    found += [job.id for job in (await store.claim(queue, "w", 9)).jobs]
    for job_id, delay_ms in (("u2", 0), ("u3", LONG), ("t2", 0)):
        extra = timed if job_id == "t2" else lock
        new = NewJob(job_id, b"x" * 3000, delay_ms=delay_ms, extra=extra)
        found.append(await store.enqueue(queue, [new], again=job_id == "u3"))
    await store.enqueue(queue, [NewJob("n", CALL)])
    for job in (await store.claim(queue, "w", 1)).jobs:
        for each in "t", "k", "fresh":
            found.append(
                await store.operating.hold_unique(queue, "w", "n", job.claim, Lock(each, conflict="latest"))
            )
    for key in "k", "t", "none":
        found.append(await store.operating.unique_owner(queue, key))
        found.append(await store.operating.release_unique(queue, key))
    return [*found, await store.info(queue, ["u1", "u2", "t1"])]
