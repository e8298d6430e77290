"""Flows as they are built: what is stored of them, and what is refused, with the names of the nodes."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from aioq import (
    App,
    ArgumentError,
    Call,
    ConfigError,
    Flow,
    FlowHandle,
    Limit,
    PayloadTooLargeError,
    Unique,
    group,
)
from aioq.flows.graph import INPUT, Kind, Node, decode_head, decode_part
from aioq.internals import Internals
from aioq.jobs.middleware import Middleware, Outgoing

pytestmark = pytest.mark.anyio

app = App("shop", max_payload=100_000)
other_app = App("other")


@dataclass
class Page:
    url: str
    body: Any = None


@app.task
async def fetch(url: str) -> bytes: ...


@app.task
async def parse(page: bytes, limit: int = 0) -> list[int]: ...


@app.task
async def embed(x: int) -> float: ...


@app.task
async def total(xs: list[float]) -> float: ...


@app.task(queue="mail", tags=["slow"], priority="high", timeout=5)
async def mail(text: Any, *, to: Any = None) -> None: ...


@app.task
async def keep(value: Any) -> None: ...


@app.task(unique=Unique(by="x"))
async def once(x: Any) -> int: ...


@app.task(limits=[Limit("x", by="x", concurrency=1)])
async def limited(x: Any) -> int: ...


@other_app.task
async def foreign() -> None: ...


class Stored:
    """The definition of a flow that was sent."""

    def __init__(self, head: bytes, parts: list[bytes], states: bytes) -> None:
        self.head = decode_head(head)
        self.parts = [decode_part(part) for part in parts]
        self.nodes = [node for part in self.parts for node in part]
        self.states = states

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def before(self, name: str) -> set[str]:
        """The names of the nodes that one waits for."""
        node = self[name]
        over = [] if node.over is None else [node.over]
        return {self.nodes[at].name for at in (*node.after, *node.inputs, *over)}


async def stored(handle: FlowHandle[Any], of: App = app) -> Stored:
    store = await internals(of).store()
    home = handle.queue or "default"
    work = await store.flows.read(home, handle.id)
    assert work is not None
    parts = [part for part in await store.flows.parts(home, handle.id, range(work.parts)) if part is not None]
    return Stored(work.head, parts, work.states)


def internals(of: App) -> Internals:
    return of._internals  # pyright: ignore[reportPrivateUsage] - what is stored is not for users


def ext(value: msgspec.Raw) -> Any:
    """Arguments with each result of a node as `(position,)`."""

    def hook(code: int, data: memoryview) -> Any:
        assert code == INPUT
        return (msgspec.msgpack.decode(data),)

    return msgspec.msgpack.decode(value, ext_hook=hook)


# -- what is stored


async def test_results_may_stand_anywhere_in_arguments() -> None:
    async with app.test():
        flow = app.flow("ingest")
        page, rows = flow.add(fetch.call("u")), flow.add(fetch.call("v"))
        given = {"list": [page.result, 1], "page": Page("w", rows.result)}
        flow.add(mail.call(given, to=page.result), name="end")
        found = await stored(await flow.send())
        end = found["end"]
        assert ext(end.args) == [{"list": [(0,), 1], "page": {"url": "w", "body": (1,)}}]
        assert ext(end.kwargs) == {"to": (0,)}
        assert end.inputs == (0, 1)
        assert [node.name for node in found.nodes] == ["fetch", "fetch-2", "end"]
        assert found.head.sinks == (2,)


async def test_the_options_of_a_node_are_those_of_its_task() -> None:
    async with app.test():
        flow = app.flow("ingest", timeout=60, ttl=5, tags=["night"], headers={"by": "me"})
        first = flow.add(fetch.options(delay=3, retry=4, headers={"a": "b"}).call("u"))
        flow.add(mail.call("x"), name="end", after=first, on_failure="ignore", always=True)
        handle = await flow.send()
        found = await stored(handle)
        fetched, end = found["fetch"], found["end"]
        assert (fetched.delay_ms, fetched.queue, fetched.priority) == (3000, "default", "normal")
        options = msgspec.msgpack.decode(fetched.options)
        assert options["headers"] == {"a": "b"}
        assert options["retry"]["attempts"] == 4
        assert (end.queue, end.priority, end.after, end.ignore, end.always) == ("mail", "high", (0,), True, True)
        assert msgspec.msgpack.decode(end.extra) == {"tags": ["slow"]}
        assert (found.head.timeout_ms, found.head.ttl_ms, found.head.headers) == (60_000, 5_000, {"by": "me"})
        assert (await handle.info()).tags == ("night",)
        assert handle.id.startswith(handle.queue or "?") or handle.queue == "default"


async def test_a_chain_gives_each_result_to_the_next_one() -> None:
    async with app.test():
        found = await stored(await (fetch.call("u") | parse.options(delay=1) | keep).send())
        assert [node.inputs for node in found.nodes] == [(), (0,), (1,)]
        assert found.nodes[1].delay_ms == 1000
        assert found.head.name == "chain"


async def test_groups_chords_and_groups_in_chains_are_one_graph() -> None:
    async with app.test():
        chord = group(embed.call(1), fetch.call("u") | parse, group(embed.call(2), embed.call(3)) | total) | keep
        found = await stored(await (chord | group(keep, keep.options(delay=1) | keep)).send())
        names = {node.name: found.before(node.name) for node in found.nodes}
        assert names == {
            "embed": set(),
            "fetch": set(),
            "parse": {"fetch"},
            "embed-2": set(),
            "embed-3": set(),
            "group": {"embed-2", "embed-3"},
            "total": {"group"},
            "group-2": {"embed", "parse", "total"},
            "keep": {"group-2"},
            "keep-2": {"keep"},
            "keep-3": {"keep"},
            "keep-4": {"keep-3"},
            "group-3": {"keep-2", "keep-4"},
        }
        assert found["group-2"].kind is Kind.JOIN
        assert [found.nodes[at].name for at in found.head.sinks] == ["group-3"]


async def test_a_map_over_a_result_is_one_node_with_a_call_of_its_element() -> None:
    async with app.test():
        flow = app.flow("ingest")
        rows = flow.add(parse.call(b"abc"))
        flow.map(embed.options(queue="mail"), rows.result, window=7, name="all")
        flow.starmap(mail, rows.result, name="star", require=2)  # pyright: ignore[reportArgumentType] - only stored
        found = await stored(await flow.send())
        mapped, star = found["all"], found["star"]
        assert (mapped.kind, mapped.over, mapped.window, mapped.queue) == (Kind.MAP, 0, 7, "mail")
        assert ext(mapped.args) == [(-1,)]
        assert (star.star, ext(star.args), star.require, star.over) == (True, [], 2, 0)


async def test_a_map_over_given_items_is_stored_in_parts() -> None:
    async def items() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async with app.test():
        flow = app.flow("ingest")
        first = flow.map(embed, range(1001), name="first")
        flow.map(embed, items(), name="second")
        flow.map(keep, [first.result, 2], name="third")
        flow.map(once, [5], name="fourth")
        found = await stored(await flow.send())
        assert [len(part) for part in found.parts] == [500, 500, 500, 500, 500, 500, 1]
        assert (found["first"].first, found["first"].count) == (500, 1001)
        assert (found["second"].first, found["second"].count) == (2000, 3)
        assert [ext(node.args) for node in found.nodes[2000:2003]] == [[0], [1], [2]]
        assert found.nodes[500].task == ""  # as the map says
        kinds = [Kind.HOLE if state == ord("k") else Kind.JOB for state in found.states]
        assert kinds == [Kind.JOB if node.kind is not Kind.HOLE else node.kind for node in found.nodes]
        assert [(node.task, node.inputs) for node in found.nodes[2500:2502]] == [("", (0,)), ("", ())]
        keyed = found.nodes[3000]  # what differs from child to child stands in the child
        assert keyed.task == once.name
        assert msgspec.msgpack.decode(keyed.extra)["unique"][0].startswith(once.name)


async def test_a_flow_in_a_flow_keeps_its_nodes() -> None:
    async with app.test():
        inner = app.flow("inner", timeout=9)
        inner.add(keep.call(inner.add(fetch.call("u")).result), name="end")
        two = app.flow("two")
        two.add(fetch.call("a"))
        two.add(inner)
        flow = app.flow("outer")
        before = flow.add(fetch.call("u"), name="before")
        one = flow.add(inner, name="one", after=before)
        both = flow.add(two, require="any")
        flow.add(keep.call([one.result, both.result]), name="last")
        found = await stored(await flow.send())
        names = {node.name: found.before(node.name) for node in found.nodes}
        assert names == {
            "before": set(),
            "one.fetch": {"before"},
            "one": {"one.fetch"},
            "one.timeout": {"one"},
            "two.fetch": set(),
            "two.inner.fetch": set(),
            "two.inner": {"two.inner.fetch"},
            "two.inner.timeout": {"two.inner"},
            "two": {"two.fetch", "two.inner"},
            "last": {"one", "two"},
        }
        timeout, nested = found["one.timeout"], found["two.inner.timeout"]
        assert (timeout.timeout_ms, timeout.first, timeout.count) == (9000, 1, 2)
        assert (nested.timeout_ms, nested.first, nested.count) == (9000, 5, 2)
        assert found["two"].require == 1


async def test_callbacks_are_nodes() -> None:
    async with app.test():
        flow = app.flow("ingest", on_failure=[mail.call("failed"), keep], on_success=keep.call("done"))
        page = flow.add(fetch.call("u"), on_failure=keep, on_success=[keep.call(1), keep.call(2)])
        flow.add(parse.call(page.result))
        flow.add(keep.call(1), name="side")
        found = await stored(await flow.send())
        failed = [node.name for node in found.nodes if node.when_failed]
        assert failed == ["fetch.on_failure", "on_failure", "on_failure-2"]
        assert found["fetch.on_failure"].inputs == (0,) == found["fetch.on_failure"].after
        assert found.before("on_failure") == {"parse", "side"}
        assert found.before("on_success") == {"parse", "side"}
        assert found.before("fetch.on_success-2") == {"fetch"}
        assert [found.nodes[at].name for at in found.head.sinks] == ["parse", "side"]


async def test_what_ends_a_flow() -> None:
    async with app.test():
        flow = app.flow("ingest")
        page = flow.add(fetch.call("u"))
        flow.add(keep.call("clean up"), after=page, always=True)
        assert (await stored(await flow.send())).head.sinks == (0,)
        rows = flow.add(parse.call(page.result))
        assert (await stored(await flow.send(page))).head.sinks == (0,)
        assert (await stored(await flow.send(rows))).head.sinks == (2,)


class Marking(Middleware):
    """Marks what is sent, and drops what it must not."""

    async def send(self, call: Outgoing, forward: Callable[[Outgoing], Any]) -> bool:
        if "drop" in call.args:
            return False
        marked = replace(call, headers={**call.headers, "job": call.job_id})
        return await forward(marked)


@pytest.mark.parametrize(("count", "states"), [(1, 7), (494, 500), (495, 1501)])
async def test_maps_that_find_room_in_one_part_take_no_more_nodes_than_there_are(count: int, states: int) -> None:
    async with app.test():
        flow = app.flow("ingest")
        first = flow.map(embed, [7], name="first")
        flow.map(embed, [], name="none", after=first)
        flow.map(embed, range(count), name="last")
        flow.map(keep, [first.result], name="uses")
        found = await stored(await flow.send())
        assert len(found.states) == len(found.nodes) == states
        assert (found["none"].count, found["last"].count, found["uses"].count) == (0, count, 1)
        if states <= 500:
            assert (found["first"].first, found["last"].first) == (4, 5)
            assert len(found.parts) == 1
        assert ext(found.nodes[found["last"].first].args) == [0]
        assert found.nodes[found["uses"].first].inputs == (0,)


async def test_the_middleware_sees_each_call() -> None:
    marked = App("marked", middleware=[Marking()])

    @marked.task
    async def work(value: Any) -> int: ...

    async with marked.test():
        flow = marked.flow("ingest")
        flow.map(work, [7], name="many")
        flow.add(work.call(flow.add(work.call(1)).result), name="end")
        handle = await flow.send()
        found = await stored(handle, marked)
        headers = [msgspec.msgpack.decode(found.nodes[at].options).get("headers") for at in (1, 2, 3)]
        assert headers == [{"job": f"{handle.id}.{index}"} for index in ("001", "002", "003")]
        dropping = marked.flow("drops")
        dropping.add(work.call("drop"), name="gone")
        with pytest.raises(ArgumentError, match=r"flow 'drops': node 'gone': a middleware did not forward"):
            await dropping.send()


# -- what is refused


def node_of_another_flow(flow: Flow) -> Any:
    return flow.add(keep.call(app.flow("second").add(fetch.call("u"), name="alien").result))


def twice(flow: Flow) -> Any:
    flow.add(keep.call(1), name="same")
    flow.add(keep.call(1), name="same")


def twice_the_flow(flow: Flow) -> Any:
    flow.add(flow)


REFUSED: Mapping[str, tuple[Callable[[Flow], Any], type[Exception], str]] = {
    "a node of another flow": (
        node_of_another_flow,
        ArgumentError,
        "node 'keep': node 'alien' is of another flow, 's",
    ),
    "a name twice": (twice, ConfigError, "flow 'bad': it has a node 'same' already"),
    "an empty name": (lambda flow: flow.add(keep.call(1), name=""), ConfigError, "a node's name is ''"),
    "itself": (twice_the_flow, ArgumentError, "flow 'bad' cannot be added to itself"),
    "an empty flow": (lambda flow: flow.add(app.flow("none")), ArgumentError, "flow 'none' has no nodes"),
    "no call": (lambda flow: flow.add(keep), ArgumentError, "it needs its arguments: task.call"),  # pyright: ignore[reportArgumentType, reportCallIssue] - refused
    "a number": (lambda flow: flow.add(3), ArgumentError, r"add\(3\): expected a call"),  # pyright: ignore[reportArgumentType, reportCallIssue] - refused
    "another App's task": (lambda flow: flow.add(foreign.call()), ConfigError, "is of another App"),
    "an id": (lambda flow: flow.add(keep.options(job_id="x").call(1)), ConfigError, "give it a name"),
    "an unknown option": (lambda flow: flow.add(keep.call(1), nam="x"), ConfigError, "unknown option 'nam'"),  # pyright: ignore[reportCallIssue] - refused
    "a wrong word": (
        lambda flow: flow.add(keep.call(1), on_failure="ignored"),  # pyright: ignore[reportArgumentType, reportCallIssue] - refused
        ConfigError,
        "on_failure='ignored': expected \"cascade\"",
    ),
    "no callback": (
        lambda flow: flow.add(keep.call(1), on_success=3),  # pyright: ignore[reportArgumentType, reportCallIssue] - refused
        ArgumentError,
        "node 'keep': on_success=3: expected a call",
    ),
    "bytes as a list": (
        lambda flow: flow.add(total.call(flow.add(fetch.call("u"), name="page").result)),  # pyright: ignore[reportArgumentType] - refused
        ArgumentError,
        r"node 'total': argument xs is the result of node 'page', bytes, and cannot be list\[float\]",
    ),
    "a list as a number": (
        lambda flow: flow.add(embed.call(flow.add(group(embed.call(1))).result)),  # pyright: ignore[reportArgumentType] - refused
        ArgumentError,
        "node 'embed-2': argument x is the result of node 'group'",
    ),
    "a map over a text": (lambda flow: flow.map(embed, "abc"), ArgumentError, "map over 'abc'"),  # pyright: ignore[reportArgumentType] - refused
    "a map over a number": (lambda flow: flow.map(embed, 3), ArgumentError, "map over 3"),  # pyright: ignore[reportArgumentType, reportCallIssue] - refused
    "a map of no task": (lambda flow: flow.map(print, [3]), ArgumentError, "expected a task"),  # pyright: ignore[reportArgumentType, reportCallIssue] - refused
    "a wrong window": (lambda flow: flow.map(embed, [3], window=-1), ConfigError, "window=-1"),
    "no node to wait for": (lambda flow: flow.add(keep.call(1), after=[3]), ArgumentError, "3 is no node"),  # pyright: ignore[reportArgumentType, reportCallIssue] - refused
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_at_once(case: str) -> None:
    build, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        build(app.flow("bad"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout=0: expected more than 0"),
        ({"timeout": "x"}, "timeout='x'"),
        ({"ttl": -1}, "ttl=-1"),
        ({"on_failure": "ignored"}, "on_failure='ignored'"),
        ({"colour": 1}, "unknown option 'colour'; the options are timeout"),
        ({"tags": "x"}, "tags='x'"),
    ],
)
def test_wrong_options_of_a_flow(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"flow 'bad': {message}"):
        app.flow("bad", **options)
    with pytest.raises(ConfigError, match="a flow's name has 1 to 128"):
        app.flow("")


def circle(flow: Flow) -> None:
    rows: list[Any] = []
    first = flow.add(keep.call(rows), name="first")
    second = flow.add(keep.call(first.result), name="second")
    rows.append(flow.add(keep.call(second.result), name="third").result)


def hidden_node_of_another_flow(flow: Flow) -> None:
    flow.add(keep.call([{"x": app.flow("second").add(fetch.call("u"), name="alien").result}]))


AT_SEND: Mapping[str, tuple[Callable[[Flow], Any], type[Exception], str]] = {
    "no nodes": (lambda _: None, ArgumentError, "flow 'bad' has no nodes"),
    "a circle": (circle, ArgumentError, "in a circle: 'first' -> 'third' -> 'second' -> 'first'"),
    "a hidden node of another flow": (
        hidden_node_of_another_flow,
        ArgumentError,
        "node 'keep': node 'alien' is of another flow, 'second'",
    ),
    "too many required": (
        lambda flow: flow.add(keep.call(1), after=flow.add(keep.call(2)), require=2, name="end"),
        ConfigError,
        "node 'end': require=2, but it waits for 1 only",
    ),
    "none required": (lambda flow: flow.add(keep.call(1), require=0), ConfigError, "require=0: expected"),
    "more than there are items": (
        lambda flow: flow.map(embed, [1, 2], require=3),
        ConfigError,
        "node 'embed': require=3, but it waits for 2 only",
    ),
    "what has no form": (
        lambda flow: flow.add(keep.call(object()), name="odd"),
        ArgumentError,
        "flow 'bad': node 'odd': argument 'value' cannot be encoded",
    ),
    "too much": (
        lambda flow: flow.add(keep.call("x" * 100_000), name="large"),
        PayloadTooLargeError,
        r"flow 'bad': node 'large': the encoded call has 100\d\d\d bytes",
    ),
    "a key of what is not known": (
        lambda flow: flow.add(once.call(flow.add(embed.call(1)).result)),
        ArgumentError,
        "no unique key can be made of the arguments: .*it is the result of a flow's node",
    ),
}


@pytest.mark.parametrize("case", AT_SEND)
async def test_what_is_refused_when_it_is_sent_and_nothing_stays(case: str) -> None:
    build, error, message = AT_SEND[case]
    async with app.test():
        flow = app.flow("bad")
        build(flow)
        with pytest.raises(error, match=message):
            await flow.send()
        assert not [each async for each in app.flows()]


async def test_keys_cannot_be_made_of_results() -> None:
    async with app.test():
        for task, match in [
            (limited, r"made of <the result of node rows>, which is not known"),
            (once, r"Give one that does not depend on them: options\(unique_key=\.\.\.\)"),
        ]:
            flow = app.flow("keys")
            first = flow.add(parse.call(b"x"), name="rows")
            flow.add(task.call(first.result))
            with pytest.raises(ArgumentError, match=match):
                await flow.send()


async def test_a_result_is_no_value_yet() -> None:
    async with app.test():
        node = app.flow("ingest").add(parse.call(b"x"), name="rows")
        unknown = "the result of node 'rows' is not known before the flow runs"
        uses: list[Callable[[Any], Any]] = [
            lambda result: result[0],
            len,
            list,
            bool,
            str,
            lambda result: f"{result}",
            lambda result: result + 1,
            lambda result: result < 1,
            hash,
            lambda result: {result: 1},
            lambda result: result.__await__(),
        ]
        for use in uses:
            with pytest.raises(ArgumentError, match=unknown):
                use(node.result)
        with pytest.raises(AttributeError, match=unknown):
            _ = node.result.first  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType] - refused
        with pytest.raises(ArgumentError, match="it is the result of a flow's node: only calls that are added"):
            await keep.send(node.result)
        with pytest.raises(ArgumentError, match=r"write node\.result"):
            await keep.send(node)
        with pytest.raises(ArgumentError, match="node 'rows' of a flow has not been sent"):
            await node


def test_calls_that_know_no_app_cannot_be_sent_alone() -> None:
    with pytest.raises(ArgumentError, match="none of these calls knows its App"):
        group(Call("shop.add", (1,), {})).flow()
    flow = app.flow("ingest")
    flow.add(Call("shop.add", (1,), {}))


@pytest.mark.parametrize(
    ("members", "message"),
    [([], "group.. has no calls"), ([3], r"group\(3\)"), ([keep, keep.call(1)], "some members are calls")],
)
def test_wrong_members_of_a_group(members: list[Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        group(*members)
