"""Random flows, driven through `plan` in any order, against what each node must become.

What they are and must become is in `tests/flow_model.py`. `Drive` takes a flow to its end: jobs end in any order,
as `Script` says for each of them, steps come twice, late, or from several steppers.
"""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioq.flows import passes, walk
from aioq.flows.graph import ELEMENT, INPUT, Head, Kind, Node
from aioq.flows.ids import flow_of
from aioq.flows.layout import Layout
from aioq.jobs.job import JobState
from aioq.store.flows import FlowStep
from aioq.wire.messages import ENCODER, decode_outcome
from tests.flow_model import Expected, Key, Script, Spec, plain, returned, sinks_of, specs
from tests.unit.flows.simulated import Simulated

pytestmark = [pytest.mark.long(seconds=25)]


def nodes_of(described: Sequence[Spec], around: int = 0) -> tuple[list[Node], dict[int, int]]:
    """The nodes of specs: first they themselves, then the children of known lists; and where these begin.

    `around` is the node that grafts them.
    """

    def named(indexes: Sequence[int]) -> tuple[int, ...]:
        return tuple(-1 - around if each < 0 else each for each in indexes)

    nodes: list[Node] = []
    firsts: dict[int, int] = {}
    end = len(described)
    for index, spec in enumerate(described):
        if spec.kind == "given":
            firsts[index] = end
            end += spec.children
    for index, spec in enumerate(described):
        values = [msgspec.msgpack.Ext(INPUT, ENCODER.encode(place)) for place in range(len(spec.inputs))]
        if spec.kind == "map":
            values.append(msgspec.msgpack.Ext(INPUT, ENCODER.encode(ELEMENT)))
        node = Node(
            task="task",
            kind={"join": Kind.JOIN, "job": Kind.JOB}.get(spec.kind, Kind.MAP),
            args=msgspec.Raw(ENCODER.encode(values)),
            after=named(spec.after),
            inputs=named(spec.inputs),
            require=spec.require,
            ignore=spec.ignore,
            always=spec.always,
            when_failed=spec.when_failed,
            over=None if spec.over is None else named([spec.over])[0],
            window=spec.window,
            first=firsts.get(index, 0),
            count=spec.children,
        )
        nodes.append(node)
    for index in firsts:
        for number in range(described[index].children):
            values = [
                *(msgspec.msgpack.Ext(INPUT, ENCODER.encode(p)) for p in range(len(described[index].inputs)))
            ]
            nodes.append(Node(args=msgspec.Raw(ENCODER.encode([*values, f"item {number}"]))))
    return nodes, firsts


class Drive:
    """Takes a flow to its end."""

    def __init__(self, top: list[Spec], script: Script, chance: random.Random, size: int) -> None:
        self.script, self.chance, self.top = script, chance, top
        nodes, firsts = nodes_of(top)
        # Children begin at a multiple of the size of a part in real flows; here all is in one part.
        head = Head(1, name="f", static=len(top), sinks=tuple(sinks_of(top)))
        self.flow = Simulated(head, nodes, size=size)
        self.flow.large = chance.random() < 0.3
        self.firsts: dict[Key, dict[int, int]] = {(): firsts}
        self.stale: list[FlowStep] = []
        self.grafted: dict[Key, list[Spec]] = {}
        self.ran: dict[Key, int] = {}
        self.late: list[str] = []
        self.cancelled_at: frozenset[str] | None = None

    def keys(self) -> dict[int, Key]:
        """The node of each index."""
        memo = self.flow.noted
        found: dict[int, Key] = {}
        for index in range(len(self.top)):
            found[index] = (index,)
        owners: list[tuple[int, str, Any]] = [(each.first, "map", each) for each in memo.maps if each.added]
        owners += [(each.base, "graft", each) for each in memo.grafts]
        for index, first in self.firsts[()].items():
            for number in range(self.top[index].children):
                found[first + number] = (index, "c", number)
        for _, kind, each in sorted(owners, key=lambda one: one[0]):
            key = found[each.node]
            if kind == "map":
                found |= {each.first + number: (*key, "c", number) for number in range(each.count)}
                continue
            described = self.grafted[key]
            _, firsts = nodes_of(described)
            for index, spec in enumerate(described):
                found[each.base + index] = (*key, "g", index)
                for number in range(spec.children if index in firsts else 0):
                    found[each.base + firsts[index] + number] = (*key, "g", index, "c", number)
        return found

    def go(self, *, cancel_at: int | None = None) -> None:
        """Take steps and end jobs in any order, until nothing is left to do."""
        for turn in range(5_000):
            if turn == cancel_at and not self.flow.over:
                self.flow.items.append("cancel enough")
            if not self._turn():
                return
        raise AssertionError(
            f"it hangs: {self.flow.states!r} {self.flow.items} {self.flow.live} {self.flow.noted}"
        )

    def _turn(self) -> bool:
        flow, chance = self.flow, self.chance
        live = flow.live
        lost = any(flow.states[index] == b">"[0] for index in range(flow.count)) and not live
        if not flow.items and not live and not lost:
            return False
        choice = chance.random()
        if live and (choice < 0.5 or not flow.items):
            self._end(chance.choice(live))
        elif flow.items and choice < 0.9:
            self._step()
        elif choice < 0.95 and flow.items:  # what was noted is noted again
            flow.items.append(chance.choice([each for each in flow.items if each[0].isdecimal()] or ["look 0"]))
        elif not flow.items:
            flow.now_ms = max(flow.now_ms, flow.look_ms or 0)
            flow.items.append("sweep 0")
        return True

    def _step(self) -> None:
        """A step by one of several steppers; now and then it is decided now and applied later."""
        flow, chance = self.flow, self.chance
        stepper = chance.randrange(len(flow.layouts))
        if chance.random() < 0.1:
            flow.layouts[stepper] = Layout(flow.head)  # its process is another one
        step = flow.plan(flow.work(), stepper)
        flow.steps += 1
        if chance.random() < 0.2:
            self.stale.append(step)
            return
        before = flow.states
        assert flow.apply(step)
        assert not flow.apply(step), "a repeated step"
        self._check(before)
        if self.stale and chance.random() < 0.5:
            assert not flow.apply(self.stale.pop()), "a step that came too late"

    def _check(self, before: bytes) -> None:
        """A node that has ended stays so, but for a retry."""
        if self.flow.noted.retries == 0:
            for old, new in zip(before, self.flow.states, strict=False):
                assert old == new or old in b".>gm", (before, self.flow.states)

    def _end(self, job_id: str) -> None:
        flow = self.flow
        found = flow_of(job_id)
        assert found
        _, index, run = found
        key = self.keys()[index]
        if self.flow.records[job_id].cancelled and self.chance.random() < 0.7:
            flow.cancelled(job_id, "by hand")
            return
        assert self.ran.get(key, 0) < run, "a node runs twice"
        end = self.script.end(key, run)
        if end == "l":
            flow.lose(job_id)
        elif end == "f":
            flow.fail(job_id)
        elif end == "c":
            flow.cancelled(job_id)
        else:
            self._succeed(job_id, key, run)
        self.ran[key] = run

    def _succeed(self, job_id: str, key: Key, run: int) -> None:
        flow = self.flow
        graft = self.script.grafts(key, run)
        if self.chance.random() < 0.2:  # an attempt that has failed has written a graft, too
            flow.items.append(f"graft {self._index(job_id)} 4294967290 3")
        value = returned(self.script, key, flow.arguments(job_id)[0])
        if graft is None:
            flow.succeed(job_id, value)
            return
        self.grafted[key] = graft
        nodes, _ = nodes_of(graft, self._index(job_id))
        flow.succeed(job_id, value, graft=nodes)

    @staticmethod
    def _index(job_id: str) -> int:
        found = flow_of(job_id)
        assert found
        return found[1]


def compare(drive: Drive, expected: Expected) -> None:
    """Each node has become what it must."""
    flow = drive.flow
    assert flow.over, (flow.states, flow.items, flow.noted)
    keys = drive.keys()
    found = {keys[index]: chr(flow.states[index]) for index in range(flow.count) if index in keys}
    assert found == expected.all()
    assert all(record.expires for record in flow.records.values())
    assert flow.own is not None


def check_result(drive: Drive, expected: Expected) -> None:
    """The flow has the result that it must have."""
    assert drive.flow.own is not None
    end, outcome = drive.flow.own
    result = expected.result()
    assert end is (JobState.FAILED if result is None else JobState.SUCCEEDED)
    if result is not None:
        value = msgspec.msgpack.decode(decode_outcome(outcome).value)
        found = [] if value is None and not result else [value] if len(result) == 1 else value
        assert plain(found) == plain(result)


def check_cancelled(drive: Drive) -> None:
    """What has ended in a flow that was cancelled fits what was before it; all others were not run."""
    keys = drive.keys()
    states = {keys[index]: chr(drive.flow.states[index]) for index in range(drive.flow.count) if index in keys}
    local = Local(drive, states)
    for key, state in states.items():
        if key[-2:-1] == ("c",):
            continue
        spec = local.spec(key)
        rule = local._rule(key, spec)
        exempt = spec.always or spec.when_failed
        if rule == "r":
            assert state in "sfcx", (key, spec, state)
            assert not (exempt and state == "x" and spec.kind == "job" and (*key, "g") not in local.lists), key
        else:
            assert state == rule or (state == "x" and not exempt), (key, spec, state, rule)


class Local(Expected):
    """The rules, applied to the states that are there."""

    def __init__(self, drive: Drive, states: dict[Key, str]) -> None:
        super().__init__(drive.top, drive.script)
        self.states = states
        self.lists |= {(*key, "g"): grafted for key, grafted in drive.grafted.items()}


@pytest.fixture(params=[500, 3])
def small_steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Steps of a few jobs each, so that most of what is done is left to the next one."""
    for module in (walk, passes):
        monkeypatch.setattr(module, "MOST_CHANGES", request.param)
    return request.param


COUNTS = st.integers(1, 60)
EXAMPLES = 12
SEEDS = st.integers(0, 2**32)
CHANCES = st.sampled_from([0.0, 0.1, 0.3])


def made(seed: int, count: int, bad: float, graft: float, size: int) -> Drive:
    chance = random.Random(seed)
    return Drive(specs(chance, count), Script(seed, bad, graft), chance, size)


@pytest.mark.parametrize("size", [500, 3])
class TestModel:
    """Random flows."""

    def test_each_node_becomes_what_it_must(self, small_steps: int, size: int) -> None:
        @settings(max_examples=EXAMPLES, deadline=None)
        @given(SEEDS, COUNTS, CHANCES, CHANCES)
        def check(seed: int, count: int, bad: float, graft: float) -> None:
            drive = made(seed, count, bad, graft, size)
            drive.go()
            expected = Expected(drive.top, drive.script)
            compare(drive, expected)
            check_result(drive, expected)

        check()

    def test_a_retry_runs_what_has_failed_and_nothing_else(self, small_steps: int, size: int) -> None:
        @settings(max_examples=EXAMPLES, deadline=None)
        @given(SEEDS, COUNTS, CHANCES, st.integers(1, 3))
        def check(seed: int, count: int, graft: float, retries: int) -> None:
            drive = made(seed, count, 0.2, graft, size)
            drive.go()
            expected = Expected(drive.top, drive.script)
            compare(drive, expected)
            for _ in range(retries):
                drive.flow.items.append("retry")
                drive.go()
                if expected.result() is None:
                    expected = Expected(drive.top, drive.script, expected)
                compare(drive, expected)
            check_result(drive, expected)

        check()

    def test_a_cancelled_flow_ends_whenever_the_cancel_comes(self, small_steps: int, size: int) -> None:
        @settings(max_examples=EXAMPLES, deadline=None)
        @given(SEEDS, COUNTS, CHANCES, CHANCES, st.integers(0, 200))
        def check(seed: int, count: int, bad: float, graft: float, at: int) -> None:
            drive = made(seed, count, bad, graft, size)
            drive.go(cancel_at=at)
            assert drive.flow.over
            assert drive.flow.own is not None
            if drive.flow.noted.cancel is None:
                compare(drive, Expected(drive.top, drive.script))
                return
            assert drive.flow.own[0] is JobState.CANCELLED
            check_cancelled(drive)

        check()
