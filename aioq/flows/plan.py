"""Decides what is done next in a flow: plain functions, which read and write nothing.

    plan(layout, work, ...)  ->  FlowStep, or NeedsError: read this and call again

A step does the items of the flow's list of work from its head on, at most so much that a store applies it at once;
what is left stands in items of its own. Every item may come again, and an item only says "look here": what is done
depends on the states alone. So a step that was repeated, or was decided for nothing, does no harm.

    begin                     the flow begins
    17 <job id>               look at the record of this job of node 17
    cancel <reason>           cancel the flow
    retry                     run what has failed again
    graft 17 <first> <count>  node 17 will add nodes if it succeeds
    -1 <flow id>              the flow's own record has ended in another way

The others are left by a step to the next one:

    on 17 500                 look at the nodes after node 17, from the one with this number on
    look 17                   look at node 17
    scan, stop, again, forget, sweep <index>      go on with this pass (`aioq.flows.passes`) at a node
"""

from collections.abc import Mapping

from aioq.errors import WireError
from aioq.flows.ends import outcome_of
from aioq.flows.graft_offers import accepted, names_graft
from aioq.flows.inputs import LOST
from aioq.flows.layout import Layout, NeedsError
from aioq.flows.memo import Stage, decode_memo, encode_memo
from aioq.flows.passes import Passes
from aioq.flows.release import Releases
from aioq.flows.rules import CANCELLED, CASCADED, FAILED, GRAFTED, RUNS, SUCCEEDED, UNENDED, WAITS
from aioq.flows.state import FlowState
from aioq.flows.walk import Walk
from aioq.jobs.job import JobState
from aioq.store.flows import BEGIN, FlowStep, FlowWork, NodeEnd, node_of
from aioq.store.outcomes import WaitReply
from aioq.wire.messages import decode_outcome, decode_reason, encode_cancellation

SWEEP_MS = 300_000
"""How often a flow looks for jobs whose records have vanished, in milliseconds. Only evictions and deletions by
hand make them vanish. A guess."""


def plan(layout: Layout, work: FlowWork, home: str, outcomes: Mapping[str, WaitReply]) -> FlowStep:
    """The next step in a flow.

    Args:
        layout: its nodes, as far as they have been read.
        work: what is to be done.
        home: its home.
        outcomes: outcomes that were read because of a `NeedsError`, by job.

    Raises:
        NeedsError: more has to be read before.
        NewerVersionError: a newer aioq has written it.
        WireError: it cannot be read.
    """
    return _Plan(layout, work, home, outcomes).step()


MOST_RETRIES = 200
"""How often a flow can be retried: its nodes' runs are counted in a byte."""

_ENDS = {JobState.SUCCEEDED: SUCCEEDED, JobState.FAILED: FAILED, JobState.CANCELLED: CANCELLED}


class _Plan:
    """One step; see `plan`."""

    def __init__(self, layout: Layout, work: FlowWork, home: str, outcomes: Mapping[str, WaitReply]) -> None:
        self._layout = layout
        self._work = work
        self._memo = decode_memo(work.memo)
        layout.bind(self._memo)
        self._outcomes = dict(outcomes)
        self._state = FlowState(work, layout, self._memo)
        self._ends = {each.job_id: each for each in work.ended}
        known = {
            each.index: each.outcome
            for each in work.ended
            if each.outcome is not None and each.job_id == self._state.job_id(each.index)
        }
        self._walk = Walk(self._state, Releases(self._state, home, known), self._outcomes)
        self._passes = Passes(self._state, self._walk)
        self._early: list[int] = []
        self._reopen = self._over = False

    def step(self) -> FlowStep:
        """The step."""
        work, walk, memo = self._work, self._walk, self._memo
        taken = 0
        for item in work.items:  # first: an end may be looked at because of an item from before it
            if item.startswith("graft "):
                self._do(item)
        for item in work.items:
            if walk.room <= 0:
                break
            self._do(item)
            taken += 1
        is_last = taken == len(work.items) and not work.further
        self._keep_time()
        walk.settle()
        walk.leave()
        self._look_again()
        end = self._end(is_last=is_last)
        over = self._is_over(is_last=is_last)
        return FlowStep(
            flow_id=work.flow_id,
            rev=work.rev,
            taken=taken,
            further=walk.further,
            states=self._state.changes(),
            nodes=len(self._state.states),
            jobs=walk.jobs,
            cancel=walk.cancelled,
            cancel_outcome=encode_cancellation("", self._reason) if walk.cancelled else b"",
            end=end,
            look_ms=self._look_ms(),
            forget=self._passes.forgotten,
            keep=self._passes.kept,
            ttl_ms=self._layout.head.ttl_ms,
            over=over,
            reopen=self._reopen,
            memo=encode_memo(memo),
        )

    # -- items ----------------------------------------------------------------------------------------------------

    def _do(self, item: str) -> None:
        """Do one item of work; one that is not known is passed over."""
        node = node_of(item)
        if node is not None:
            self._look_at(*node)
            return
        word, _, rest = item.partition(" ")
        numbers = [int(each) for each in rest.split() if each.isdecimal()] if word not in _TEXTS else []
        if word == BEGIN and self._memo.stage is Stage.NEW:
            self._begin()
        elif word == "cancel":
            self._cancel(rest)
        elif word == "retry":
            self._retry()
        elif word in _NUMBERS and len(numbers) == _NUMBERS[word]:
            self._go_on(word, numbers)

    def _go_on(self, word: str, numbers: list[int]) -> None:
        """Do an item that an earlier step has left, or that a worker has added."""
        stage, (index, *rest) = self._memo.stage, numbers
        if word == "graft":
            if index < len(self._state.states) and self._state.states[index] == RUNS:
                offers = self._memo.offers.setdefault(index, [])
                if (rest[0], rest[1]) not in offers:
                    offers.append((rest[0], rest[1]))
        elif word in {"on", "look"}:
            if index < len(self._state.states):
                (self._walk.look if word == "look" else self._walk.go_on)(*numbers)
        elif stage is _STAGES.get(word, Stage.RUNNING):
            passes = self._passes
            {
                "scan": passes.scan,
                "stop": passes.stop,
                "sweep": passes.sweep,
                "again": self._again,
                "forget": self._forget,
            }[word](index)

    def _begin(self) -> None:
        self._memo.stage = Stage.RUNNING
        self._start_clock()
        self._passes.scan(0)

    def _start_clock(self) -> None:
        now, timeout_ms = self._work.now_ms, self._layout.head.timeout_ms
        self._memo.sweep_ms = now + SWEEP_MS
        self._memo.deadline_ms = 0 if timeout_ms is None else now + timeout_ms

    def _look_at(self, index: int, job_id: str) -> None:
        """A node's job may have ended."""
        state = self._state
        if index < 0:
            self._cancelled_by_hand()
            return
        found = self._ends.get(job_id)
        if index >= len(state.states) or job_id != state.job_id(index) or found is None:
            return
        if state.states[index] == WAITS:
            self._early.append(index)
        elif state.states[index] == RUNS:
            self._ended(index, found)

    def _ended(self, index: int, found: NodeEnd) -> None:
        """This is what the record of a node's job says, which was under way."""
        state = self._state
        if found.state is None:
            self._walk.fail(index, *LOST)
        elif found.state.ended:
            if found.state is JobState.SUCCEEDED and self._may_be_offered(index, found):
                self._walk.further.append(state.item(index))
                return
            grafts = self._memo.offers.pop(index, None) if found.state is JobState.SUCCEEDED else None
            if grafts and not (state.is_stopped(index) and not self._layout.is_exempt(index)):
                self._graft(index, found, grafts)
            else:
                self._walk.end(index, _ENDS[found.state])

    def _may_be_offered(self, index: int, found: NodeEnd) -> bool:
        """Whether what a node has added may be named by an item that has not come yet.

        It was asked for before the node ended, so then it is among those that are still in the list.
        """
        if not self._work.further or index in self._memo.offers:
            return False
        outcome = found.outcome or self._outcomes.get(found.job_id)
        if outcome is None and found.job_id not in self._outcomes:
            # Of all of them at once: this is so where more than 500 items wait, and large results are among them.
            raise NeedsError(outcomes=[each.job_id for each in self._work.ended if _is_large(each)])
        return isinstance(outcome, bytes) and names_graft(outcome)

    def _look_again(self) -> None:
        """Leave ends to the next step that came early: a step had created those jobs, and was refused half-way.

        The same is released by this step, or by one that follows from what it leaves.
        """
        states, is_still = self._state.states, self._walk.is_still and not self._work.further
        for index in self._early:
            if states[index] == RUNS or (states[index] == WAITS and not is_still):
                self._walk.further.append(self._state.item(index))

    def _graft(self, index: int, found: NodeEnd, offers: list[tuple[int, int]]) -> None:
        """A node has succeeded, and has added nodes in one of its attempts."""
        state, job_id = self._state, self._state.job_id(index)
        outcome = found.outcome or self._outcomes.get(job_id)
        if outcome is None and job_id not in self._outcomes:
            raise NeedsError(outcomes=[job_id])
        try:
            graft = accepted(state, index, outcome, offers)
        except WireError as error:
            self._walk.fail(index, "aioq.WireError", f"what it has added to the flow is refused: {error}")
            return
        if graft is None:
            self._walk.end(index, SUCCEEDED)
            return
        state.set(index, GRAFTED)
        for each in range(graft.base, graft.base + graft.count):
            if self._walk.room <= 0:
                self._walk.further.append(f"scan {each}")
                break
            self._walk.look(each)
        self._walk.look(index)

    def _cancel(self, reason: str, *, timed_out: bool = False) -> None:
        memo = self._memo
        if memo.stage is Stage.RUNNING and memo.cancel is None:
            memo.cancel, memo.timed_out = reason, timed_out
            self._passes.stop(0)

    def _cancelled_by_hand(self) -> None:
        """The flow's own record was cancelled, as any job can be."""
        outcome, reason = self._work.outcome, ""
        if self._work.state is None or outcome is None:
            reason = "its record has vanished"
        else:
            try:
                reason = decode_reason(decode_outcome(outcome))
            except WireError:
                reason = ""
        self._cancel(reason)

    def _retry(self) -> None:
        memo = self._memo
        if memo.stage not in {Stage.ENDED, Stage.OVER} or not memo.failed or memo.retries >= MOST_RETRIES:
            return
        memo.stage, memo.cancel, memo.timed_out, memo.broken = Stage.AGAIN, None, False, ""
        memo.retries, memo.failed, memo.searched = memo.retries + 1, False, False
        memo.deadlines, memo.stopped, memo.offers = {}, [], {}
        self._reopen = True
        self._again(0)

    def _again(self, start: int) -> None:
        if self._passes.again(start):
            self._memo.stage = Stage.RUNNING
            self._start_clock()
            self._walk.further.append("scan 0")

    def _forget(self, start: int) -> None:
        self._over = self._passes.forget(start)

    # -- time, and the end ----------------------------------------------------------------------------------------

    @property
    def _reason(self) -> str:
        return self._memo.cancel or ("the time of a part of the flow is over" if self._memo.stopped else "")

    def _keep_time(self) -> None:
        """Do what is due."""
        memo, now = self._memo, self._work.now_ms
        if memo.stage is not Stage.RUNNING:
            return
        if memo.deadline_ms and now >= memo.deadline_ms:
            self._cancel("the time of the flow is over", timed_out=True)
        over = [join for join, at in memo.deadlines.items() if now >= at and join not in memo.stopped]
        if over:
            memo.stopped += over
            self._passes.stop(0)
        if now >= memo.sweep_ms:
            memo.sweep_ms = now + SWEEP_MS
            self._passes.sweep(0)

    def _look_ms(self) -> int | None:
        memo = self._memo
        if memo.stage is not Stage.RUNNING:
            return None
        times = [at for join, at in memo.deadlines.items() if join not in memo.stopped]
        if memo.deadline_ms and memo.cancel is None:
            times.append(memo.deadline_ms)
        return min([*times, memo.sweep_ms])

    def _end(self, *, is_last: bool) -> tuple[JobState, bytes] | None:
        """The end of the flow, if all nodes have ended, or none can go on."""
        memo, state = self._memo, self._state
        if memo.stage is not Stage.RUNNING:
            return None
        if not state.has_ended() and not (is_last and self._is_stuck()):
            return None
        end = outcome_of(state, self._outcomes)
        memo.stage, memo.failed = Stage.ENDED, end[0] is not JobState.SUCCEEDED
        self._walk.further = ["forget 0"]
        return end

    def _is_stuck(self) -> bool:
        """Whether no node can go on, as in a circle. All nodes are looked at once more before that is said."""
        memo, states = self._memo, self._state.states
        if RUNS in states or self._walk.jobs:
            memo.searched = False
            return False
        if not self._walk.is_still:
            return False
        if not memo.searched:
            memo.searched = True
            self._walk.further.append("scan 0")
            return False
        names = [self._layout.name(each) for each, letter in enumerate(states) if letter in UNENDED]
        memo.broken = f"these nodes wait for each other: {', '.join(names[:10])}"
        for index, letter in enumerate(states):
            if letter in UNENDED:
                self._state.set(index, CASCADED)
        return True

    def _is_over(self, *, is_last: bool) -> bool:
        """Whether all is done."""
        if self._memo.stage is Stage.OVER and not self._reopen:
            return True
        if not self._over:
            return False
        if self._walk.further or not is_last:
            self._walk.further.append(f"forget {len(self._state.states)}")
            return False
        self._memo.stage = Stage.OVER
        return True


def _is_large(end: NodeEnd) -> bool:
    """Whether a job has an outcome that did not come with the work."""
    return end.outcome is None and end.state is not None and end.state.ended


_STAGES = {"again": Stage.AGAIN, "forget": Stage.ENDED}
_TEXTS = frozenset({"cancel"})
_NUMBERS = {"graft": 3, "on": 2, "look": 1, "scan": 1, "stop": 1, "again": 1, "forget": 1, "sweep": 1}
