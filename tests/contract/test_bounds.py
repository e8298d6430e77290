"""Every key that a queue has in the server, and the bound of each. The table is that of `docs/design.md`."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aioq.jobs.job import JobState, Priority, Progress
from aioq.store.contract import Claimed, Limits, NewJob, Settlement, Verb
from aioq.store.events import LISTENING_MS, MOST_LIVE
from aioq.store.extra import Expiry, Extra, Gather, LimitUse, Lock
from aioq.store.history import COUNTERS
from aioq.store.limiters import LimiterRule, Take
from aioq.store.operations import KEPT_MS, MOST_OPERATIONS, Act, OperationStep
from aioq.store.redis import RedisStore, replies
from aioq.store.redis.durability import MARK_MS, Confirmation
from aioq.store.relay import relay
from aioq.store.schedules import Entry, Overlap, Tick
from aioq.store.story import LoggedLines
from aioq.wire.messages import encode_envelope
from tests.contract.flows import begun, job_id, node, step, taken
from tests.contract.inside import ServerInside
from tests.contract.kit import (
    BLOCK,
    BROKEN,
    CALL,
    CRASHED,
    QUEUE,
    REASON,
    THREE,
    Backend,
    Listener,
    joined,
    keep,
    running,
    send,
    settle,
    take,
    tell,
)
from tests.records import read_record

pytestmark = pytest.mark.anyio

DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
PAUSABLE = "shop.pausable"
PAUSABLE_CALL = encode_envelope(PAUSABLE, [], {}, None)
MINUTE = 60_000
HOUR = 3_600_000
DAY = 24 * HOUR
MAX_WAITERS = 64
MAX_TASKS = 1_000
TICK = Tick(
    id="ticking",
    rev=0,
    jobs=[("ticking@1", 1, 1), ("ticking@2", 2, 2)],
    next_ms=None,
    overlap=Overlap.ONE,
    max_runs=0,
)
CONFIRMED = Confirmation()
GONE = -2  # what PTTL says of a key that is not there
NODES = 200  # entries: a lane is trimmed by whole nodes of 100, and two of them may be in use


class Look:
    """A look at the keys of a queue.

    Args:
        client: of the server.
        base: what they all begin with.
        limits: the limits of the store.
    """

    def __init__(self, client: Any, base: str, limits: Limits) -> None:
        self.client = client
        self.base = base
        self.app_base = base.replace(QUEUE, "")
        self.limits = limits

    def names(self) -> list[str]:
        """Every key of the database, without the base, the queue's or the App's, where it begins so."""
        keys = [key.removeprefix(self.base) for key in self.client.scan_iter(count=1000)]
        keys = [key for key in keys if not key.startswith(self.base.replace("}", "-2}"))]
        keys = [key.removeprefix(self.base.replace(QUEUE, "limiter:api")) for key in keys]
        return [key.removeprefix(self.app_base) for key in keys]

    def expires_within(self, key: str, most: int) -> None:
        left = self.client.pttl(self.base + key)
        assert 0 < left <= most, f"{key} expires in {left} ms"

    def workers(self) -> set[str]:
        return set(self.client.zrange(self.base + ":workers", 0, -1))

    def state(self, job_id: str) -> str | None:
        """A job's state; None where there is no record."""
        record = self.record(job_id)
        return record.get("state", "queued") if record else None

    def record(self, job_id: str) -> dict[str, Any]:
        """What is known of a job; nothing where there is no record."""
        return read_record(self.client, f"{self.base}:job:{job_id}")


def named_by(fields: dict[str, str]) -> tuple[str, ...]:
    """The jobs that an entry names."""
    return replies.named_by([part.encode() for pair in fields.items() for part in pair]) or ()


def lane(look: Look, key: str) -> None:
    """No more than what waits and was not passed yet, and two nodes."""
    entries = look.client.xrange(look.base + key)
    waiting = [entry for entry in entries if any(look.state(each) == "queued" for each in named_by(entry[1]))]
    assert len(entries) <= len(waiting) + NODES


def job(look: Look, key: str) -> None:
    """Once it has ended it expires; until then it is in one place, which `test_model.py` holds it to.

    One that was moved here from another queue stays until that has been notified of its end.
    """
    record = read_record(look.client, look.base + key)
    assert len(record.get("waiters", "").split()) <= MAX_WAITERS
    if "ended" in record and "origins" not in record.get("extra", ""):
        look.expires_within(key, max(DAY, look.limits.dead_ttl_ms))
        assert "waiters" not in record


def body(look: Look, key: str) -> None:
    """The envelope of a job that is there and still has one; it expires with the record."""
    job_key = look.base + key.replace(":body:", ":job:", 1)
    assert read_record(look.client, job_key)["job"] == "..."
    assert abs(look.client.pttl(look.base + key) - look.client.pttl(job_key)) < 1000


def scheduled(look: Look, key: str) -> None:
    members = look.client.zrange(look.base + key, 0, -1)
    assert {look.state(member) for member in members if member} == {"scheduled"}


def timers(look: Look, key: str) -> None:
    """Of jobs that are there, and may expire or were moved; and of queues for which there are entries."""
    there = {
        "expire": lambda each: "expires" in look.record(each)["extra"],
        "look": lambda each: "move" in look.record(each)["extra"],
        "relay": lambda each: look.client.xlen(f"{look.base}:outbox:{each}") > 0,
        "follow": lambda each: look.state(each) == "waiting",
        "group": lambda each: look.client.zcard(f"{look.base}:group:{each}") > 0,
        "limit": lambda each: each.startswith("0 "),
        "batch": lambda each: look.client.zcard(f"{look.base}:batch:{each}") > 0,
        "flow": lambda each: look.client.hget(f"{look.base}:flow:{each}", "over") == "0",
        "operate": lambda each: look.client.exists(f"{look.app_base}:operation:{each}") > 0,
    }
    members = [member.split(" ", 1) for member in look.client.zrange(look.base + key, 0, -1)]
    assert all(there[kind](each) for kind, each in members)


def waiting(look: Look, key: str) -> None:
    """Jobs that follow another one, or wait in a group; records of flows."""
    assert all(look.state(each) == "waiting" for each in look.client.smembers(look.base + key))


def group(look: Look, key: str) -> None:
    assert {look.state(each) for each in look.client.zrange(look.base + key, 0, -1)} == {"waiting"}


def holders(look: Look, key: str) -> None:
    assert {look.state(each) for each in look.client.zrange(look.base + key, 0, -1)} == {"running"}


def bucket(look: Look, key: str) -> None:
    look.expires_within(key, HOUR)


def tokens(look: Look, key: str) -> None:
    """Entries of groups whose jobs wait."""
    for place, noted in look.client.hgetall(look.base + key).items():
        _, stream, entry = noted.split(" ")
        assert look.client.xrange(f"{look.base}:{stream}", entry, entry)
        assert look.client.zcard(f"{look.base}:group:{place.partition(' ')[2]}") > 0


def blocked(look: Look, key: str) -> None:
    """Keys with jobs that wait."""
    limit = key.removeprefix(":blocked:")
    for each in look.client.smembers(look.base + key):
        assert look.client.zcard(f"{look.base}:group:{limit}:{each}") > 0


def halted(look: Look, key: str) -> None:
    assert look.client.hkeys(look.base + key) == ["quiet"]
    look.expires_within(key, 30 * DAY)


def numbers(look: Look, key: str) -> None:
    assert look.client.hkeys(look.base + key) == ["customer", "api", "quiet"]
    look.expires_within(key, 30 * DAY)


def outbox(look: Look, key: str) -> None:
    """Its entries are about jobs that are there; without any it expires."""
    entries = look.client.xrange(look.base + key)
    for _, fields in entries:
        assert look.state(fields["id"]) in {"moving", "succeeded", "cancelled", "failed"}
    if not entries:
        look.expires_within(key, DAY + HOUR)


def relays(look: Look, key: str) -> None:
    """Queues for which there are entries."""
    assert all(look.client.xlen(f"{look.base}:outbox:{each}") for each in look.client.hkeys(look.base + key))


def inbox(look: Look, key: str) -> None:
    look.expires_within(key, DAY)


def idle(look: Look, key: str) -> None:
    """Some of the workers; of a queue where some stand, also a member without a name."""
    assert set(look.client.zrange(look.base + key, 0, -1)) <= look.workers() | {""}


def standing(look: Look, key: str) -> None:
    """Some of the workers."""
    assert set(look.client.zrange(look.base + key, 0, -1)) <= look.workers()


def wakeable(look: Look, key: str) -> None:
    assert look.client.strlen(look.base + key) == 1


def workers(look: Look, key: str) -> None:
    assert set(look.client.zrange(look.base + key, 0, -1)) == look.workers()


def leases(look: Look, key: str) -> None:
    assert set(look.client.hkeys(look.base + key)) <= look.workers()


def of_a_worker(look: Look, key: str) -> None:
    assert key.split(":")[2] in look.workers()
    assert {look.state(member) for member in look.client.smembers(look.base + key)} == {"running"}


def cancelled(look: Look, key: str) -> None:
    """Running jobs, and what operators ask for."""
    assert key.split(":")[2] in look.workers()
    members = look.client.smembers(look.base + key)
    assert {look.state(member) for member in members if not member.startswith("\n")} == {"running"}
    assert [member for member in members if member.startswith("\n")] == ["\nlater\nwhat"]


def answer(look: Look, key: str) -> None:
    look.expires_within(key, MINUTE)


def dead(look: Look, key: str) -> None:
    assert look.client.zcard(look.base + key) <= look.limits.dead_limit
    look.expires_within(key, look.limits.dead_ttl_ms)


def cut(look: Look, key: str) -> None:
    """Some of these may be gone."""
    look.expires_within(key, max(DAY, look.limits.dead_ttl_ms))


def flows(look: Look, key: str) -> None:
    """Of each there is a record; open ones come first, and it expires unless there are such."""
    members = look.client.zrange(look.base + key, 0, -1, withscores=True)
    assert all(look.client.exists(f"{look.base}:flow:{each}") for each, _ in members)
    if members[0][1] > 0:
        look.expires_within(key, DAY)


def flow(look: Look, key: str) -> None:
    """It expires once the flow is over; so do its parts and its states."""
    if look.client.hget(f"{look.base}:flow:{key.rpartition(':')[2]}", "over") == "1":
        look.expires_within(key, DAY)


def flow_work(look: Look, key: str) -> None:
    """Of a flow that is open."""
    assert look.client.hget(f"{look.base}:flow:{key.rpartition(':')[2]}", "over") == "0"


def tombstone(look: Look, key: str) -> None:
    look.expires_within(key, look.limits.tombstone_ms)


def batch(look: Look, key: str) -> None:
    """Those that wait for others; a timer lets them be run."""
    assert {look.state(member) for member in look.client.zrange(look.base + key, 0, -1)} == {"waiting"}
    assert look.client.zscore(look.base + ":timers", f"batch {key.removeprefix(':batch:')}") is not None


def unique(look: Look, key: str) -> None:
    """It expires, or its job has not ended."""
    if look.client.pttl(look.base + key) >= 0:
        look.expires_within(key, HOUR)
    else:
        owner = look.client.get(look.base + key).partition("\n")[0]
        assert look.state(owner) not in {None, "succeeded", "failed", "cancelled"}


def receipt(look: Look, key: str) -> None:
    look.expires_within(key, MINUTE)


def mark(look: Look, key: str) -> None:
    left = look.client.pttl(look.base + key)
    assert left == GONE or 0 < left <= MARK_MS


def marks_of_entries(look: Look, key: str) -> None:
    """How many there are, `test_max_size.py` shows."""
    look.expires_within(key, DAY)


def senders(look: Look, key: str) -> None:
    """`test_rooms.py` shows that those of the dead go."""
    assert look.client.zrange(look.base + key, 0, -1) == look.client.hkeys(look.base + ":places")
    look.expires_within(key, 60_000)


def places(look: Look, key: str) -> None:
    look.expires_within(key, 60_000)


def leftovers(look: Look, key: str) -> None:
    """Of lanes whose entries name more than their queued jobs."""
    left = look.client.hgetall(look.base + key)
    assert left.keys() <= {priority.value for priority in Priority}
    assert "0" not in left.values()


def served(look: Look, key: str) -> None:
    """Those that were noted not long ago."""
    assert look.client.zrange(look.app_base + key, 0, -1) == [QUEUE]
    assert 0 < look.client.pttl(look.app_base + key) <= 30 * DAY


def schedules(look: Look, key: str) -> None:
    names = [f":schedule:{member}" for member in look.client.zrange(look.base + key, 0, -1)]
    assert all(look.client.exists(look.base + name) for name in names)


def declared(look: Look, key: str) -> None:
    assert look.client.strlen(look.base + key) <= 16 + 1 + 32


def schedule_queues(look: Look, key: str) -> None:
    """Those that have schedules; this App has one queue."""
    assert look.client.smembers(look.app_base + key) == {QUEUE}
    assert look.client.zcard(look.base + ":schedules") > 0


def shards(look: Look, key: str) -> None:
    """The number of each queue that has one, and those that it has had."""
    assert look.client.hkeys(look.app_base + key) == ["mail", "mail#2", "mail#4"]


def operations(look: Look, key: str) -> None:
    assert look.client.zcard(look.app_base + key) <= MOST_OPERATIONS
    assert 0 < look.client.pttl(look.app_base + key) <= KEPT_MS


def operation(look: Look, key: str) -> None:
    """Of the App, or of the queue."""
    base = look.base if look.client.exists(look.base + key) else look.app_base
    assert 0 < look.client.pttl(base + key) <= KEPT_MS


def schedule(look: Look, key: str) -> None:
    """It is there, or was removed because no code declares it any more."""
    if look.client.zscore(look.base + ":schedules", key.removeprefix(":schedule:")) is None:
        look.expires_within(key, DAY)


def owners(look: Look, key: str) -> None:
    assert set(look.client.hkeys(look.base + key)) <= look.workers()


def noted(look: Look, key: str) -> None:
    look.expires_within(key, HOUR)


def history(look: Look, key: str) -> None:
    assert look.client.xlen(look.base + key) <= look.limits.history + NODES
    look.expires_within(key, 30 * DAY)


def events(look: Look, key: str) -> None:
    assert look.client.xlen(look.base + key) <= MOST_LIVE + NODES
    look.expires_within(key, DAY)


def listening(look: Look, key: str) -> None:
    look.expires_within(key, LISTENING_MS)


def counters(look: Look, key: str) -> None:
    assert set(look.client.hkeys(look.base + key)) <= {"history", "events"}
    look.expires_within(key, 30 * DAY)


def tasks(look: Look, key: str) -> None:
    assert look.client.zcard(look.base + key) <= MAX_TASKS
    look.expires_within(key, 73 * HOUR)


def stats(look: Look, key: str) -> None:
    look.expires_within(key, 3 * HOUR + MINUTE if key.startswith(":stats:m") else 73 * HOUR)
    assert look.client.strlen(look.base + key) <= 4 * COUNTERS


def job_log(look: Look, key: str) -> None:
    assert look.client.xlen(look.base + key) <= look.limits.logs
    look.expires_within(key, max(look.limits.result_ttl_ms, look.limits.dead_ttl_ms))


def paused(look: Look, key: str) -> None:
    """What is paused, and what is to be looked at again."""
    fields = look.client.hkeys(look.base + key)
    assert [each for each in fields if not each.startswith("aside ")] == [f"task {PAUSABLE}"]


def aside(look: Look, key: str) -> None:
    """Entries of which at least one job waits."""
    for _, fields in look.client.xrange(look.base + key):
        assert any(look.state(each) == "queued" for each in named_by(fields))


def limiter(look: Look, key: str) -> None:
    base = look.base.replace(QUEUE, "limiter:api")
    fields = look.client.hkeys(base + key)
    processes = [each for each in fields if each.startswith(("h:", "w:"))]
    assert sorted(processes) == ["h:w1", "w:w2"]
    assert len(fields) - len(processes) <= 12
    assert 0 < look.client.pttl(base + key) <= 30 * DAY


def row(look: Look, key: str) -> None:
    base = look.base.replace(QUEUE, "limiter:api")
    assert look.client.zrange(base + key, 0, -1) == ["w2"]
    assert 0 < look.client.pttl(base + key) <= 30 * DAY


def snoozed(look: Look, key: str) -> None:
    base = look.base.replace(QUEUE, "limiter:api")
    assert look.client.zrange(base + key, 0, -1) == ["mail job"]
    assert 0 < look.client.pttl(base + key) <= 30 * DAY


def limiters(look: Look, key: str) -> None:
    assert look.client.smembers(look.app_base + key) == {"api"}
    assert 0 < look.client.pttl(look.app_base + key) <= 30 * DAY


BOUNDS: dict[str, tuple[str, Callable[[Look, str], None]]] = {
    **{f":{priority.value}{end}": ("trimmed", lane) for priority in Priority for end in ("", ":front", ":rest")},
    **{f":aside-{priority.value}{end}": ("entries", aside) for priority in Priority for end in ("", ":front")},
    ":leftovers": ("fields", leftovers),
    ":paused": ("fields", paused),
    ":job:<id>": ("expires", job),
    ":body:<id>": ("with its job", body),
    ":scheduled": ("members", scheduled),
    ":timers": ("members", timers),
    ":waiting": ("members", waiting),
    ":batch:<name>": ("members", batch),
    ":group:<group>": ("members", group),
    ":holders:<group>": ("members", holders),
    ":bucket:<group>": ("expires", bucket),
    ":blocked:<limit>": ("members", blocked),
    ":tokens": ("fields", tokens),
    ":limits": ("expires", numbers),
    ":halted": ("expires", halted),
    ":outbox:<queue>": ("expires", outbox),
    ":relays": ("members", relays),
    ":inbox": ("members", inbox),
    ":workers": ("members", workers),
    ":fetched": ("members", workers),
    ":leases": ("members", leases),
    ":idle": ("members", idle),
    ":standing": ("members", standing),
    ":wakeable": ("deleted with the last of these workers", wakeable),
    ":synced": ("expires", mark),
    ":held:<worker>": ("deleted with the worker", of_a_worker),
    ":cancel:<worker>": ("deleted with the worker", cancelled),
    ":about": ("members", leases),
    ":answer:<request>": ("expires", answer),
    ":schedules": ("members", schedules),
    ":schedule:<id>": ("deleted with the schedule", schedule),
    ":declared": ("one", declared),
    ":owners": ("members", owners),
    ":noted": ("expires", noted),
    ":limiter": ("fields", limiter),
    ":row": ("members", row),
    ":snoozed": ("members", snoozed),
    ":limiters": ("expires", limiters),
    ":schedule-queues": ("members", schedule_queues),
    ":served": ("expires", served),
    ":shards": ("fields", shards),
    ":operations": ("capped", operations),
    ":operation:<id>": ("expires", operation),
    ":dead": ("capped", dead),
    ":cut": ("members", cut),
    ":history": ("trimmed", history),
    ":events": ("trimmed", events),
    ":listening": ("expires", listening),
    ":watched": ("expires", listening),
    ":counters": ("two", counters),
    ":tasks": ("capped", tasks),
    ":stats:<period>": ("expires", stats),
    ":log:<id>": ("capped", job_log),
    ":unique:<key>": ("deleted when the job ends", unique),
    ":named:<stream>": ("expires", marks_of_entries),
    ":senders": ("members", senders),
    ":places": ("fields", places),
    ":flows": ("members", flows),
    ":flow:<id>": ("expires", flow),
    ":flowparts:<id>": ("expires", flow),
    ":flowstates:<id>": ("expires", flow),
    ":flowwork:<id>": ("deleted", flow_work),
    ":receipt:<call>": ("expires", receipt),
    ":tombstone:<nonce>": ("expires", tombstone),
}
"""Each pattern, the first words of its bound in the design, and what shows that it holds."""

LANES = {pattern for pattern, (_, check) in BOUNDS.items() if check is lane}


def pattern_of(key: str) -> str:
    """The one pattern that explains a key."""
    fitting = [pattern for pattern in BOUNDS if re.fullmatch(re.sub("<.*>", ".+", pattern), key)]
    assert len(fitting) == 1, f"{key} is explained by {fitting or 'nothing'}"
    return fitting[0]


def test_the_design_names_the_same_keys_and_bounds() -> None:
    rows = [line.strip("| ").split(" | ") for line in DESIGN.read_text().splitlines() if line.startswith("| `:")]
    named = {pattern: row[3] for row in rows for pattern in re.findall(r"`(:[^`]+)`", row[0])}

    assert named.keys() == BOUNDS.keys()
    for pattern, words in named.items():
        assert words.startswith(BOUNDS[pattern][0]), pattern


@pytest.fixture
def limits() -> Limits:
    return Limits(
        dead_limit=2,
        dead_ttl_ms=HOUR,
        max_crashes=1,
        lease_ms=30 * DAY,
        tombstone_ms=HOUR,
        history=10,
        stats=True,
        logs=3,
    )


@pytest.fixture
def look(redis_backend: Backend, limits: Limits) -> Iterator[Look]:
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        yield Look(client, redis_backend.key("").removesuffix(":"), limits)


async def follow_some(store: RedisStore) -> None:
    """Two jobs follow others with their unique keys; one of them is let go."""
    for number in range(4):
        extra = Extra(unique=Lock(f"shop.build:{number % 2}", conflict="latest"))
        await store.enqueue(QUEUE, [NewJob(f"built-{number}", CALL, extra=extra)])
        if number == 1:
            assert len(await take(store, "w1", 9)) == 2
    await store.operating.release_unique(QUEUE, "shop.build:1")
    assert [each.id for each in await take(store, "w1", 9)] == ["built-3"]


async def limit_some(store: RedisStore) -> None:
    """Of the jobs of one key only one runs; another one has used up a rate."""
    for number in range(3):
        extra = Extra(limits=(LimitUse("customer", "7", concurrency=1),))
        await store.enqueue(QUEUE, [NewJob(f"synced-{number}", CALL, extra=extra)])
    extra = Extra(limits=(LimitUse("api", rate=1, per_us=HOUR * 1000, burst=1),))
    await store.enqueue(QUEUE, [NewJob("asked", CALL, extra=extra)])
    assert [each.id for each in await take(store, "w1", 9)] == ["synced-0", "asked"]
    await store.operating.limits.pause(QUEUE, "quiet", None, 0)


async def gather_some(store: RedisStore) -> None:
    """Of three jobs two are a batch, and one waits for another one."""
    for number in range(3):
        extra = Extra(batch=Gather("shop.save", 2, HOUR, 1000))
        await store.enqueue(QUEUE, [NewJob(f"saved-{number}", CALL, extra=extra)])
    assert [len(each) for each in (await store.claim(QUEUE, "w1", 9)).batches] == [2]


async def use_a_limiter(store: RedisStore) -> None:
    """Of one place two processes wait for a third; one of them leaves."""
    rule = LimiterRule(concurrency=1)
    await store.limiters.note("api")
    for member in ("w1", "w2", "w3"):
        await store.limiters.take("api", Take(member=member, rule=rule, needs=[1]))
    await store.limiters.take("api", Take(member="w3", needs=[1], job="mail job", snooze_ms=-1000))
    await store.limiters.take("api", Take(member="w3"))


async def use_everything(store: RedisStore) -> None:
    """Every verb, in the midst of things: jobs in each state, workers that live, are gone, and left."""
    await store.operating.story.events(QUEUE, None, listens=True, watches=True)
    await use_a_limiter(store)
    for worker in ("w1", "w2", "gone", "left"):
        await joined(store, worker)
    await set_some_aside(store)
    await send(store, "later", "sooner", delay_ms=2 * HOUR)
    await send(store, "called off", delay_ms=HOUR)
    extra = Extra(("a",), Expiry(span_ms=HOUR))
    await store.enqueue(QUEUE, [NewJob("expires", CALL, delay_ms=HOUR, extra=extra)])
    throttled = Extra(unique=Lock("shop.sync:1", "within", window_ms=HOUR))
    await store.enqueue(QUEUE, [NewJob("throttled", CALL, delay_ms=HOUR, extra=throttled)])
    await store.enqueue(QUEUE, [NewJob("unique", CALL, delay_ms=HOUR, extra=Extra(unique=Lock("shop.sync:2")))])
    for number in range(6):
        await settle(store, "w1", await running(store, "w1", f"broken-{number}"), Verb.FAILED, BROKEN, ttl_ms=HOUR)
    await move_some(store)
    await put(store, "ticking", "removed", "undeclared")
    for worker in ("w1", "gone", "left"):
        await store.timetable.note_declaration(QUEUE, 0, "0" * 32, worker=worker, ids=["ticking"])
    revs = {entry.id: entry.rev for entry in (await store.timetable.read(QUEUE)).entries}
    removed = [
        Entry(id="removed", rev=revs["removed"]),
        Entry(id="undeclared", rev=revs["undeclared"], code="any"),
    ]
    assert await store.timetable.write(QUEUE, removed) == [True, True]
    await store.timetable.tick(QUEUE, [msgspec.structs.replace(TICK, rev=revs["ticking"])])
    assert [each.id for each in await take(store, "w1", 9)] == ["ticking@1"]
    for use in (follow_some, limit_some, gather_some, flow_some):
        await use(store)
    awaited = await running(store, "w1", "awaited")
    for number in range(MAX_WAITERS + 6):
        await store.wait(QUEUE, f"process-{number}", ["awaited", "later"])
    await store.progress(QUEUE, "w1", [("awaited", awaited.claim, msgspec.msgpack.encode(Progress(1)))])
    await store.operating.story.log(QUEUE, "w1", [LoggedLines("awaited", awaited.claim, [b"line"] * 5)])
    await running(store, "w1", "stopped")
    for worker in ("w1", "gone", "left"):
        await tell(store, worker, about=b"about", answers=[("asked\nwhat", b"answer")])
    await store.operating.control.ask(QUEUE, "w1", "later\nwhat")
    await running(store, "gone", "orphan")
    await running(store, "left", "returned")
    await store.depart(QUEUE, "left")
    for priority in reversed(Priority):
        await send(store, *(f"{priority.value}-{number}" for number in range(9)), priority=priority)
        await settle_each(store, await take(store, "w1", 8))
    assert await store.cancel(QUEUE, ["stopped", "called off", "low-8"], REASON, DAY) == [
        "running",
        "scheduled",
        "queued",
    ]
    await take(store, "w1", 5)
    await store.enqueue(QUEUE, [NewJob("large", encode_envelope("large", ["x" * 2000], {}, None))])
    await store.shards.change(QUEUE, 2, None)
    await store.shards.change(QUEUE, 4, 2)
    operations = store.operating.operations
    assert await operations.write("op", b"any", 0)
    await operations.step(QUEUE, "op", OperationStep(0, Act.RETRY, JobState.FAILED, 0, b"", 0))
    await operations.remind(QUEUE, "op", HOUR)
    await store.operating.note_queues([QUEUE])
    await send(store, "delivered", "waiting", "passed over")
    assert [token.job_ids for token in await store.block(QUEUE, "w2", BLOCK) if token.lane == "normal"]
    extra = Extra(limits=(LimitUse("customer", "8", concurrency=1),))
    await store.enqueue(QUEUE, [NewJob("in turn", CALL, extra=extra)])


async def flow_some(store: RedisStore) -> None:
    """One flow is over, another one has a node that waits for its time, and one that is elsewhere."""
    for flow_id in ("flow1", "flow2"):
        work = await begun(store, flow_id=flow_id)
        nodes = [node(0, flow_id=flow_id, delay_ms=HOUR), node(1, QUEUE + "-2", flow_id=flow_id, delay_ms=HOUR)]
        await store.flows.apply(QUEUE, [step(work, jobs=nodes)])
    await end_flow(store, "flow1")
    await store.flows.request(QUEUE, "flow2", "words")


async def end_flow(store: RedisStore, flow_id: str) -> None:
    """Cancel the nodes of a flow, and end it."""
    for last in (False, True):
        work = await taken(store, flow_id)
        ids = [job_id(n, flow_id) for n in range(2)]
        ending = step(work, cancel=ids, forget=ids, cancel_outcome=REASON, ttl_ms=HOUR, over=last)
        if last:
            ending = msgspec.structs.replace(ending, end=(JobState.CANCELLED, REASON))
        assert all(await store.flows.apply(QUEUE, [ending]))


async def set_some_aside(store: RedisStore) -> None:
    """Two jobs in each lane whose task is paused; one of each was given back before."""
    for priority in Priority:
        await send(store, f"released {priority}", priority=priority, call=PAUSABLE_CALL)
    for job in await take(store, "w1"):
        await settle(store, "w1", job, Verb.RELEASE)
    await store.operating.pauses.pause(QUEUE, [PAUSABLE])
    for priority in Priority:
        await send(store, f"aside {priority}", priority=priority, call=PAUSABLE_CALL)
    assert await take(store, "w1") == []


async def move_some(store: RedisStore) -> None:
    """One job that was moved and one that is on its way, each both out of this queue and into it."""
    await send(store, "gone there", "on its way", delay_ms=2 * HOUR)
    assert len(await store.outbox.move(QUEUE, ["gone there"], QUEUE + "-2")) == 1
    await relay(store.outbox, QUEUE, QUEUE + "-2")
    await store.outbox.move(QUEUE, ["on its way"], QUEUE + "-2")
    await store.outbox.read(QUEUE, QUEUE + "-2")
    jobs = [NewJob(f"came-{number}", CALL, delay_ms=2 * HOUR) for number in range(2)]
    await store.enqueue(QUEUE + "-2", jobs)
    await store.outbox.move(QUEUE + "-2", ["came-0", "came-1"], QUEUE)
    await relay(store.outbox, QUEUE + "-2", QUEUE)
    await store.cancel(QUEUE, ["came-1"], REASON, DAY)


async def put(store: RedisStore, *ids: str) -> None:
    entries = [Entry(id=each, definition=b"any", envelope=CALL, next_ms=1) for each in ids]
    assert await store.timetable.write(QUEUE, entries) == [True] * len(ids)


async def settle_each(store: RedisStore, jobs: list[Claimed]) -> None:
    """Each verb with one job."""
    verbs = [
        (Verb.SUCCEEDED, 0, DAY),
        (Verb.SUCCEEDED, 0, 0),
        (Verb.CANCELLED, 0, DAY),
        (Verb.RETRY, HOUR, 0),
        (Verb.RETRY, 0, 0),
        (Verb.PARK, HOUR, DAY),
        (Verb.INTERRUPT, 0, 0),
        (Verb.RELEASE, 0, 0),
    ]
    settlements = [
        Settlement(claimed.id, claimed.claim, verb, BROKEN if verb is Verb.RETRY else THREE, delay, ttl)
        for claimed, (verb, delay, ttl) in zip(jobs, verbs, strict=True)
    ]
    assert all(await store.settle(QUEUE, "w1", settlements))


async def end_everything(store: RedisStore, inside: ServerInside) -> None:
    """The workers go, one of them without a word; another one finishes what there is. Schedules are removed."""
    await store.operating.pauses.resume(QUEUE, [PAUSABLE])
    for entry in (await store.timetable.read(QUEUE)).entries:
        assert await store.timetable.write(QUEUE, [Entry(id=entry.id, rev=entry.rev)]) == [True]
    await store.operating.operations.remind(QUEUE, "op", None)
    await end_flow(store, "flow2")
    inside.crash("gone")
    while (await store.recover(QUEUE, CRASHED, 1)).more:
        pass
    for worker in ("w1", "w2"):
        await store.depart(QUEUE, worker)
    await joined(store, "last")
    for _ in range(3):
        inside.jump(HOUR)
        await store.promote(QUEUE, 100)
        await end_elsewhere(store)
        while jobs := await take_all(store):
            done = [Settlement(each.id, each.claim, Verb.SUCCEEDED, THREE, 0, DAY) for each in jobs]
            await store.settle(QUEUE, "last", done)
    inside.jump(HOUR)
    await store.promote(QUEUE, 100)
    await keep(store, "last", "sweep")
    await store.depart(QUEUE, "last")


async def take_all(store: RedisStore) -> list[Claimed]:
    """What the last worker may run, alone or in a batch."""
    claim = await store.claim(QUEUE, "last", 100)
    return [*claim.jobs, *(each for batch in claim.batches for each in batch)]


async def end_elsewhere(store: RedisStore) -> None:
    """Run what was moved to the other queue, and tell of all ends."""
    other = QUEUE + "-2"
    await relay(store.outbox, QUEUE, other)
    await store.reschedule(other, ["gone there", "on its way"])
    await joined(store, "w", other)
    jobs = (await store.claim(other, "w", 10)).jobs
    await store.settle(
        other, "w", [Settlement(each.id, each.claim, Verb.SUCCEEDED, THREE, 0, DAY) for each in jobs]
    )
    await relay(store.outbox, other, QUEUE)
    await relay(store.outbox, QUEUE, other)


async def test_every_key_has_a_bound_that_holds(redis_store: RedisStore, look: Look) -> None:
    await use_everything(redis_store)
    look.client.zadd(f"{look.base}:idle", {"w2": 1, "": -2})  # what a claim that finds nothing leaves
    look.client.zadd(f"{look.base}:standing", {"w2": 1})
    look.client.set(f"{look.base}:wakeable", 1)
    look.client.zadd(f"{look.base}:named:normal", {"5-0 50": 1})  # what a send to a queue with a bound leaves
    look.client.expire(f"{look.base}:named:normal", DAY // 1000)
    look.client.zadd(f"{look.base}:senders", {"process.1": 1})  # and one that waits
    look.client.hset(f"{look.base}:places", "process.1", "1 5 9")
    for name in ("senders", "places"):
        look.client.expire(f"{look.base}:{name}", 60)
    # What a durable write leaves; not every server can confirm one.
    look.client.execute_command(*CONFIRMED.commands(look.base)[0])

    patterns = {key: pattern_of(key) for key in look.names()}

    assert set(patterns.values()) == set(BOUNDS), "some keys were not used"
    for key, pattern in patterns.items():
        BOUNDS[pattern][1](look, key)


async def test_when_all_is_over_only_empty_lanes_and_notes_are_left(redis_store: RedisStore, look: Look) -> None:
    inside = ServerInside(look.client, look.base)
    await use_everything(redis_store)

    await end_everything(redis_store, inside)

    rest = {":job:<id>", ":body:<id>", ":schedule:<id>", ":receipt:<call>", ":tombstone:<nonce>"}
    rest |= {
        ":dead",
        ":cut",
        ":declared",
        ":noted",
        ":history",
        ":counters",
        ":tasks",
        ":inbox",
        ":outbox:<queue>",
        ":shards",
        ":served",
        ":operations",
        ":operation:<id>",
        ":stats:<period>",
        ":log:<id>",
        ":events",
        ":limits",
        *(":limiter", ":row", ":snoozed", ":limiters"),
        ":halted",
        *(":flows", ":flow:<id>", ":flowparts:<id>", ":flowstates:<id>"),
    }
    for key in look.names():
        assert pattern_of(key) in {*LANES, *rest}
        BOUNDS[pattern_of(key)][1](look, key)
    inside.jump(31 * DAY)
    ServerInside(look.client, look.base.replace(QUEUE, "limiter:api")).jump(31 * DAY)
    ServerInside(look.client, look.app_base).jump(31 * DAY)  # the App's keys have a time of their own too
    assert set(look.names()) <= {*LANES, ":declared", ":shards"}
    assert sum(look.client.xlen(look.base + key) for key in look.names() if key in LANES) <= NODES
    places = inside.places()
    assert (places.waiting.total(), places.delivered, places.consumers) == (0, {}, set())


async def test_a_client_that_vanished_while_it_waited_leaves_nothing(
    redis_store: RedisStore, redis_backend: Backend, look: Look
) -> None:
    await joined(redis_store, "w")
    claimed = await running(redis_store, "w")
    client = await redis_backend.open()
    await Listener.on(client, "vanished")
    await client.wait(QUEUE, "vanished", ["job"])
    assert look.record("job")["waiters"] == "vanished"

    await client.close()
    await settle(redis_store, "w", claimed, Verb.SUCCEEDED, THREE)

    assert "waiters" not in look.record("job")
    assert look.client.pubsub_channels("vanished") == []
