"""A model of flows: random ones, and what each of their nodes must become.

A flow is described by `Spec`s. `Expected` says of each of its nodes, by recursion over these descriptions, in
which state it ends and with which value; it shares no code with what it is compared with. What a job does follows
from the seed of its flow and its key alone (`Script`), so that any process can know it.
"""

import hashlib
import random
from dataclasses import dataclass, field, replace
from typing import Any

from aioq.wire.messages import ENCODER

Key = tuple[Any, ...]
"""A node: `(3,)`; a child of a map: `(3, "c", 0)`; what a node has grafted: `(3, "g", 1)`, and so on."""

BOOM = {"type": "Boom", "message": "it has failed", "traceback": ""}
BY_HAND = {"type": "aioq.JobCancelledError", "message": "by hand", "traceback": ""}
NOT_RUN = {"type": "aioq.JobCancelledError", "message": "it was cancelled because of others", "traceback": ""}
GONE = {
    "type": "JobLost",
    "message": "its record has vanished from the server, evicted or deleted",
    "traceback": "",
}


@dataclass
class Spec:
    """A node as the model knows it; indexes are those of its list, negative ones those of nodes around a graft."""

    kind: str = "job"
    after: list[int] = field(default_factory=list[int])
    inputs: list[int] = field(default_factory=list[int])
    require: int = 0
    ignore: bool = False
    always: bool = False
    when_failed: bool = False
    over: int | None = None
    window: int = 0
    children: int = 0

    @property
    def before(self) -> list[int]:
        return list(dict.fromkeys([*self.after, *self.inputs, *([] if self.over is None else [self.over])]))


@dataclass
class Script:
    """What becomes of each job, by chance that depends on the seed and the job alone."""

    seed: int
    bad: float
    graft: float

    def chance(self, *key: object) -> random.Random:
        return random.Random(repr((self.seed, key)))

    def end(self, key: Key, run: int) -> str:
        chance = self.chance("end", key, run)
        if chance.random() >= (self.bad if run == 1 else self.bad / 2):
            return "s"
        return chance.choice("fffcl")

    def width(self, key: Key) -> int | None:
        """How many elements the list has that a job returns; None if it returns no list."""
        return self.chance("width", key).choice([None, 0, 1, 2, 3, 5])

    def grafts(self, key: Key, run: int) -> list[Spec] | None:
        """What a job adds to the flow."""
        chance = self.chance("graft", key, run)
        depth = sum(each == "g" for each in key)
        if depth >= 3 or chance.random() >= self.graft:
            return None
        return specs(chance, chance.randint(1, 4), inside=True)


def specs(chance: random.Random, count: int, *, inside: bool = False) -> list[Spec]:
    """Random nodes; those of a graft may use the result of the node that grafts them (-1)."""
    made: list[Spec] = []
    for index in range(count):
        known = list(range(index)) + ([-1] if inside else [])

        def some(most: int, known: list[int] = known) -> list[int]:
            return chance.sample(known, min(len(known), chance.randint(0, most)))

        kind = chance.choice(["job"] * 6 + ["join", "join", "map", "given"])
        spec = Spec(kind, after=some(2), inputs=some(3), ignore=chance.random() < 0.2)
        if chance.random() < 0.25 and spec.kind != "map":
            spec.require = chance.randint(1, 3)
        if kind == "job" and chance.random() < 0.2:
            spec = replace(spec, require=0, **{chance.choice(["always", "when_failed"]): True})
        if kind == "map":
            if not known:
                spec.kind = "job"
            else:
                spec.over, spec.window = chance.choice(known), chance.choice([0, 1, 2])
                spec.require = chance.choice([0, 0, 1, 2])
        if kind == "given":
            spec.children, spec.window = chance.randint(0, 4), chance.choice([0, 1, 2])
        made.append(spec)
    return made


def digest(value: object) -> str:
    return hashlib.sha1(ENCODER.encode(value)).hexdigest()[:8]


class Expected:
    """What each node must become, if no cancel comes.

    Args:
        top: the nodes of the flow.
        script: what becomes of jobs.
        earlier: what has become of them before the flow was retried: what has succeeded stays as it is, what has
            failed or was cancelled is run again.
    """

    def __init__(self, top: list[Spec], script: Script, earlier: "Expected | None" = None) -> None:
        self.top, self.script, self.earlier = top, script, earlier
        self.lists: dict[Key, list[Spec]] = {(): top}
        self.states: dict[Key, str] = {}
        self.values: dict[Key, Any] = {}

    def spec(self, key: Key) -> Spec:
        return self.spec(key[:-2]) if key[-2:-1] == ("c",) else self.lists[key[:-1]][key[-1]]

    def all(self) -> dict[Key, str]:
        for index in range(len(self.top)):
            self.state((index,))
        return self.states

    def beside(self, key: Key, index: int) -> Key:
        """The node that another one names: of its own list, or the one that has grafted it."""
        if index < 0:
            return key[:-2]
        return (*key[:-1], index)

    def state(self, key: Key) -> str:
        if key not in self.states:
            self.states[key] = "?"
            self.states[key] = self._state(key)
        assert self.states[key] != "?", "a circle"
        return self.states[key]

    def good(self, key: Key) -> bool:
        return self.state(key) == "s" or (self.spec(key).ignore and self.state(key) in "fcx")

    def _rule(self, key: Key, spec: Spec) -> str:
        """r: it runs."""
        before = [self.beside(key, each) for each in spec.before if each >= 0]
        if spec.always:
            return "r"
        if spec.when_failed:
            watched = [self.beside(key, each) for each in spec.after if each >= 0]
            fired = any(self.state(each) in "fcx" for each in watched)
            return "r" if fired and all(self.good(each) for each in before if each not in watched) else "k"
        good = len([each for each in before if self.good(each)])
        skipped = len([each for each in before if self.state(each) == "k"])
        need = len(before)
        if spec.kind not in {"map", "given"} and spec.require:
            need = min(spec.require, len(before))
        elif spec.kind == "join" and skipped < len(before):
            need -= skipped
        if good >= need:
            return "r"
        return "x" if good + skipped < len(before) else "k"

    def _state(self, key: Key) -> str:
        if self.is_kept(key):
            self._keep(key)
            return "s"
        spec = self.spec(key)
        earlier = self.earlier
        if earlier is not None and earlier.states.get(key) == "x" and (*key, "g") in earlier.lists:
            return self._job(key)  # it has succeeded: what it has grafted is run again
        rule = self._rule(key, spec)
        if rule != "r":
            self._drop_children(key, spec, rule)
            return rule
        if spec.kind == "join":
            return "s"
        if spec.kind in {"map", "given"}:
            return self._children(key, spec)
        return self._job(key)

    def _drop_children(self, key: Key, spec: Spec, rule: str) -> None:
        """A map is not run: so are its children that have not succeeded earlier."""
        children = {(*key, "c", number) for number in range(spec.children)}
        if self.earlier is not None:
            children |= {each for each in self.earlier.states if each[:-1] == (*key, "c")}
        for each in children:
            earlier = self.earlier
            if earlier is not None and (self.is_kept(each) or (*each, "g") in earlier.lists):
                self._child(each)
            else:
                self.states[each] = rule

    def run(self, key: Key) -> int:
        """The run of a job that is its last one."""
        earlier = self.earlier
        if earlier is None or key not in earlier.states:
            return 1
        if self.is_left(key):
            return earlier.run(key)
        return earlier.run(key) + (earlier.states[key] in "fc")

    def is_kept(self, key: Key) -> bool:
        """Whether a node has succeeded before the flow was retried; a join is only what its nodes are."""
        if self.spec(key).kind == "join" and key[-2:-1] != ("c",):
            return False
        return self.earlier is not None and self.earlier.states.get(key) == "s"

    def is_left(self, key: Key) -> bool:
        """Whether what a node is a part of, a map or a graft, had succeeded without it."""
        return self.earlier is not None and any(
            self.earlier.states.get(key[:end]) == "s" for end in range(len(key) - 2, 0, -2)
        )

    def _keep(self, key: Key) -> None:
        """Take over what belongs to a node that has succeeded: children of a map, and what it has grafted."""
        assert self.earlier is not None
        for each, state in self.earlier.states.items():
            if each[: len(key)] == key and each != key:
                self.states[each] = state
        self.lists |= {each: found for each, found in self.earlier.lists.items() if each[: len(key)] == key}

    def _job(self, key: Key) -> str:
        run = self.run(key)
        end = self.script.end(key, run)
        if end != "s":
            return "f" if end == "l" else end
        grafted = self.script.grafts(key, run)
        if grafted is None:
            return "s"
        self.lists[(*key, "g")] = grafted
        ends = [(*key, "g", index) for index in range(len(grafted))]
        for each in ends:
            self.state(each)
        bad = [each for each in ends if self.state(each) in "fcx" and not self.spec(each).ignore]
        return "x" if any(not self.dealt_with(each, grafted) for each in bad) else "s"

    def dealt_with(self, key: Key, among: list[Spec]) -> bool:
        """Whether an ordinary node comes after a bad one."""
        return any(key[-1] in spec.before and not (spec.always or spec.when_failed) for spec in among)

    def _children(self, key: Key, spec: Spec) -> str:
        width = spec.children
        if spec.kind == "map":
            assert spec.over is not None
            found = self.elements(self.beside(key, spec.over), key)
            if found is None:
                return "f"
            width = len(found)
        states = [self._child((*key, "c", number)) for number in range(width)]
        good = sum(each == "s" or (spec.ignore and each in "fcx") for each in states)
        return "s" if good >= (min(spec.require, width) if spec.require else width) else "x"

    def _child(self, key: Key) -> str:
        self.states[key] = "?"
        if self.is_kept(key):
            self._keep(key)
            self.states[key] = "s"
        else:
            self.states[key] = self._job(key)
        return self.states[key]

    def elements(self, source: Key, asker: Key) -> list[Any] | None:
        """The elements of the list that a node gives; None if it gives none."""
        if self.is_in_graft(source, asker):
            value = self.returned(source)
            return value if isinstance(value, list) else None
        if self.state(source) != "s":
            return None
        value = self.value(source, asker)
        return value if isinstance(value, list) else None

    @staticmethod
    def is_in_graft(source: Key, asker: Key) -> bool:
        """Whether a node is in what another one has grafted: so that one has succeeded, as far as it can know."""
        return asker[: len(source) + 1] == (*source, "g")

    def value(self, key: Key, asker: Key = ()) -> Any:
        if self.is_in_graft(key, asker):
            return self.returned(key)
        if self.earlier is not None and self.is_left(key):
            return self.earlier.value(key)
        if key not in self.values:
            self.values[key] = self._value(key)
        return self.values[key]

    def _value(self, key: Key) -> Any:  # noqa: PLR0911 - a table of cases
        state, spec = self.state(key), self.spec(key)
        child = key[-2:-1] == ("c",)
        if state == "k":
            return None
        if state == "x":
            return NOT_RUN
        if spec.kind == "join" and not child:
            return [self.value(self.beside(key, each), key) for each in spec.inputs]
        if spec.kind in {"map", "given"} and not child:
            if state == "f":
                return {"type": "TypeError"}
            width = len([each for each in self.states if each[:-1] == (*key, "c")])
            return [self.value((*key, "c", number)) for number in range(width)]
        if state == "s":
            kept = self.earlier is not None and self.is_kept(key)
            return self.earlier.value(key) if self.earlier is not None and kept else self.returned(key)
        end = self.script.end(key, self.run(key))
        return GONE if end == "l" else BOOM if state == "f" else BY_HAND

    def returned(self, key: Key) -> Any:
        earlier = self.earlier
        if earlier is not None and earlier.states.get(key) == "x" and (*key, "g") in earlier.lists:
            return earlier.returned(key)  # it is not run again: what it has grafted is
        return returned(self.script, key, self.arguments(key))

    def arguments(self, key: Key) -> list[Any]:
        spec = self.spec(key)
        if key[-2:-1] == ("c",):
            owner = key[:-2]
            values = [self.value(self.beside(owner, each), key) for each in spec.inputs]
            if spec.kind == "given":
                return [*values, f"item {key[-1]}"]
            assert spec.over is not None
            found = self.elements(self.beside(owner, spec.over), key)
            assert found is not None
            return [*values, found[key[-1]]]
        return [self.value(self.beside(key, each), key) for each in spec.inputs]

    def result(self) -> Any:
        """The result of the flow: of each node on which none depends; None if it fails."""
        top = self.top
        for index, spec in enumerate(top):
            key = (index,)
            if self.state(key) in "fcx" and not spec.ignore and not self.dealt_with(key, top):
                return None
        return [self.value((index,)) for index in sinks_of(top)]


def returned(script: Script, key: Key, args: list[Any]) -> Any:
    """What a job returns: a list or a text, which depends on its arguments."""
    text = digest([plain(args), repr(key)])
    width = script.width(key)
    return text if width is None else [f"{text} {number}" for number in range(width)]


def plain(value: Any) -> Any:
    """Errors of maps without their messages."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict) and value.get("type") in {"TypeError", "ValueError"}:
        return {"type": "TypeError"}
    return value


def sinks_of(top: list[Spec]) -> list[int]:
    used = {each for spec in top for each in spec.before}
    return [index for index in range(len(top)) if index not in used]
