"""What a random flow of the fault cases must become: `tests/flow_model.py` in the words of `app.flow`."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from aioq import Failure
from tests.flow_model import Expected, Key, Script, Spec, digest, specs

__all__ = ["Block", "Key", "Modelled", "Scripted", "described", "digest", "plain", "returned"]


class Block(NamedTuple):
    """Nodes of a flow that are a flow of their own.

    Attributes:
        first, number: where they begin, and how many they are.
        end: the node that stands for them.
        after: what they wait for.
    """

    first: int
    number: int
    end: int
    after: tuple[int, ...]


class Scripted(Script):
    """What the jobs of one flow do; all of it follows from the flow's seed.

    A child of a map is known by its item, not its place: this is what its job knows. `(3, "c", "1f3a")` in place
    of `(3, "c", 0)`.
    """

    def __init__(self, seed: int) -> None:
        chance = random.Random(repr((seed, "flow")))
        super().__init__(seed, bad=chance.choice([0.0, 0.05, 0.2]), graft=chance.choice([0.0, 0.1, 0.2]))

    def end(self, key: Key, run: int) -> str:
        return {"l": "f"}.get(end := super().end(key, run), end)

    def grafts(self, key: Key, run: int) -> list[Spec] | None:
        chance = self.chance("graft", key)
        if sum(each == "g" for each in key) >= 3 or chance.random() >= self.graft:
            return None
        added = tidied(specs(chance, chance.randint(1, 4)))
        return None if {each.kind for each in added} == {"join"} else added

    def seconds(self, key: Key) -> float:
        """How long a job takes."""
        chance = self.chance("seconds", key)
        return chance.uniform(0.2, 0.6) if chance.random() < 0.05 else chance.uniform(0, 0.02)

    def failures(self, key: Key) -> int:
        """How many attempts fail before the one that counts."""
        return self.chance("failures", key).choice([0] * 9 + [1, 2])


def tidied(given: list[Spec]) -> list[Spec]:
    """What `app.flow` can be given: of a map all is known but its list, and no more is required than there is."""
    made: list[Spec] = []
    for spec in given:
        if spec.kind in {"map", "given"}:
            spec = replace(spec, after=[*spec.after, *spec.inputs], inputs=[])  # noqa: PLW2901
        most = spec.children if spec.kind == "given" else len(spec.before)
        made.append(spec if spec.kind == "map" else replace(spec, require=min(spec.require, most)))
    return made


def described(chance: random.Random, count: int) -> tuple[list[Spec], list[Block]]:
    """Random nodes, some of them in flows of their own."""
    made, blocks = list[Spec](), list[Block]()
    place: dict[int, int] = {}

    def moved(spec: Spec, to: dict[int, int]) -> Spec:
        over = None if spec.over is None else to[spec.over]
        return replace(
            spec, after=[to[each] for each in spec.after], inputs=[to[each] for each in spec.inputs], over=over
        )

    for index, given in enumerate(tidied(specs(chance, count))):
        spec = moved(given, place)
        if index == 0:
            spec = Spec()  # so that one is always run
        if index == 0 or spec != Spec(after=spec.after, inputs=spec.inputs) or chance.random() > 0.1:
            place[index] = len(made)
            made.append(spec)
            continue
        first, before = len(made), list(dict.fromkeys(spec.before))
        inner = [
            replace(each, always=False, when_failed=False) for each in tidied(specs(chance, chance.randint(1, 5)))
        ]
        here = {each: first + each for each in range(len(inner))}
        ends = [here[each] for each in ends_of(inner)]
        made += [replace(moved(each, here), **({} if each.before else {"after": before})) for each in inner]
        if len(ends) > 1:
            made.append(Spec("join", inputs=ends))
        place[index] = len(made) - 1 if len(ends) > 1 else ends[0]
        blocks.append(Block(first, len(inner), place[index], tuple(before)))
    return made, blocks


def ends_of(given: Sequence[Spec]) -> list[int]:
    """The nodes whose results are that of the flow."""
    mine = [index for index, spec in enumerate(given) if not spec.when_failed]
    ordinary = [index for index in mine if not given[index].always] or mine
    used = {each for index in ordinary for each in given[index].before}
    return [index for index in ordinary if index not in used]


def plain(value: Any) -> Any:
    """Errors without what they say."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    return "an error" if isinstance(value, dict | Failure) else value


def returned(script: Script, key: Key, values: list[Any]) -> Any:
    """What a job returns: a list or a text, which depends on what it is given."""
    text = digest([values, repr(key)])
    width = script.width(key)
    return text if width is None else [f"{text} {number}" for number in range(width)]


class _Bound(Scripted):
    """The same for keys of the model."""

    def __init__(self, seed: int, model: "Modelled") -> None:
        super().__init__(seed)
        self._model = model

    def chance(self, *key: Any) -> random.Random:
        return super().chance(*(self._model.acts(each) if isinstance(each, tuple) else each for each in key))


class Modelled(Expected):
    """What each node must become.

    Attributes:
        ran: the nodes whose jobs are run.
    """

    def __init__(self, top: list[Spec], seed: int) -> None:
        super().__init__(top, _Bound(seed, self))
        self.ran: set[Key] = set()

    def acts(self, key: Key) -> Key:
        """The key by which the job of a node knows itself."""
        known = list(key)
        for at in range(len(key) - 1):
            if key[at] == "c" and isinstance(key[at + 1], int):
                known[at + 1] = digest(plain(super().arguments(key[: at + 2])[-1]))
        return tuple(known)

    def _job(self, key: Key) -> str:
        self.ran.add(key)
        return super()._job(key)

    def returned(self, key: Key) -> Any:
        return returned(self.script, self.acts(key), plain(self.arguments(key)))

    def succeeds(self) -> bool:
        """Whether the flow does."""
        return super().result() is not None

    def result(self) -> Any:
        """The result of the flow, if it succeeds."""
        values = [self.value((index,)) for index in ends_of(self.top)]
        return plain(values if len(values) != 1 else values[0])

    def shown(self) -> Counter[tuple[str, str]]:
        """What `graph()` shows of nodes that were added by a graft: their names and states."""
        found = Counter[tuple[str, str]]()
        for key, state in self.states.items():
            if len(key) > 1 and key[-2] == "g":
                found[".".join(str(each) for each in self.acts(key)), state] += 1
        return found

    def children(self, key: Key) -> Counter[str]:
        """The states of a map's children."""
        return Counter(state for each, state in self.states.items() if each[:-1] == (*key, "c"))
