"""What makes jobs unique: what may be declared, and what is refused where it is written."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from aioq import App, ArgumentError, ConfigError, Unique
from aioq.jobs.options import make_options

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"until": "begun"}, r"until='begun': expected 'ended' or 'started'"),
    ({"conflict": "drop"}, r"conflict='drop': expected 'return', 'raise', 'replace' or 'latest'"),
    ({"within": 0}, r"within=0: expected more than 0 s"),
    ({"within": -1}, r"within=-1: expected more than 0 s"),
    ({"within": "60"}, r"within='60': expected more than 0 s"),
    ({"within": float("nan")}, r"within=nan: expected more than 0 s"),
    ({"within": timedelta(days=36_600)}, r"within=.*: expected more than 0 s and at most ten years"),
    ({"within": 60, "until": "ended"}, r"give until or within, not both"),
    ({"within": 60, "conflict": "latest"}, r"conflict='latest' and within"),
    ({"by": []}, r"by=\[\]: expected the name of a parameter, several names, or a function"),
    ({"by": [1]}, r"by=\[1\]: expected the name of a parameter"),
    ({"by": 7}, r"by=7: expected the name of a parameter"),
    ({"by": b"user"}, r"by=b'user': expected the name of a parameter"),
    ({"by": {"user": 1}}, r"by=\{'user': 1\}: expected the name of a parameter"),
    ({"scope": ""}, r"scope='': expected 1 to 128 letters"),
    ({"scope": "a b"}, r"scope='a b': expected 1 to 128 letters"),
    ({"scope": 3}, r"scope=3: expected 1 to 128 letters"),
]


def test_what_is_wrong_is_refused_where_it_is_written() -> None:
    for given, message in WRONG:
        with pytest.raises(ConfigError, match=f"^Unique: {message}"):
            Unique(**given)


def test_options_that_are_wrong_are_refused() -> None:
    for given, message in [
        ({"unique": "user_id"}, r"^task 'x': unique='user_id': expected a Unique, such as Unique\(by="),
        ({"unique": True}, r"^task 'x': unique=True: expected a Unique"),
        ({"unique_key": ""}, r"^task 'x': unique_key='': expected 1 to 256 printable characters"),
        ({"unique_key": "x" * 257}, r"^task 'x': unique_key='x.*expected 1 to 256 printable characters"),
        ({"unique_key": "a\nb"}, r"^task 'x': unique_key='a\\nb': expected 1 to 256 printable characters"),
        ({"unique_key": "\ud800"}, r"^task 'x': unique_key=.*: expected 1 to 256 printable characters"),
        ({"unique_key": 7}, r"^task 'x': unique_key=7: expected 1 to 256 printable characters"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make_options("task 'x'", **given)  # pyright: ignore[reportArgumentType]


def make(unique: Unique | None = None, **options: Any) -> Any:
    app = App("shop", url="redis://nowhere")

    @app.task(name="sync", unique=unique or Unique(), **options)
    async def sync(user_id: int, full: bool = False, *rest: Any, why: Any = "") -> None: ...

    return sync


def test_a_name_that_is_no_parameter_is_refused_where_the_task_is_declared() -> None:
    for by in ("user", ["user_id", "user"]):
        with pytest.raises(ConfigError) as caught:
            make(Unique(by=by))
        assert "there is no parameter 'user' (did you mean 'user_id'?)" in str(caught.value)
        assert "its parameters are: user_id, full, rest, why" in str(caught.value)


def test_an_annotation_that_is_defined_later_is_checked_when_it_is_sent() -> None:
    app = App("shop", url="redis://nowhere")

    @app.task(unique=Unique(by="nobody"))
    async def later(user: "Later") -> None: ...  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

    with pytest.raises(ConfigError, match="annotation cannot be resolved"):
        later.unique_key(1)


KEYS: list[tuple[Unique, Callable[[Any], str], Callable[[Any], str], bool]] = [
    (Unique(), lambda t: t.unique_key(1), lambda t: t.unique_key(user_id=1), True),
    (Unique(), lambda t: t.unique_key(1), lambda t: t.unique_key(1, False, why=""), True),
    (Unique(), lambda t: t.unique_key(1), lambda t: t.unique_key(1, True), False),
    (Unique(), lambda t: t.unique_key(1), lambda t: t.unique_key(2), False),
    (Unique(), lambda t: t.unique_key(1), lambda t: t.unique_key("1"), False),
    (Unique(), lambda t: t.unique_key(1, False, 2), lambda t: t.unique_key(1, False, 3), False),
    (Unique(by="user_id"), lambda t: t.unique_key(1), lambda t: t.unique_key(1, True, why="x"), True),
    (Unique(by="user_id"), lambda t: t.unique_key(1), lambda t: t.unique_key(2), False),
    (Unique(by=["user_id", "full"]), lambda t: t.unique_key(1, why="a"), lambda t: t.unique_key(1), True),
    (Unique(by=["user_id", "full"]), lambda t: t.unique_key(1, True), lambda t: t.unique_key(1), False),
    (
        Unique(by="why"),
        lambda t: t.unique_key(1, why={"a": 1, "b": 2}),
        lambda t: t.unique_key(1, why={"b": 2, "a": 1}),
        True,
    ),
    (
        Unique(by="why"),
        lambda t: t.unique_key(1, why={"a", "b", "c"}),
        lambda t: t.unique_key(1, why={"c", "b", "a"}),
        True,
    ),
    (Unique(by=lambda args: args["user_id"] % 10), lambda t: t.unique_key(1), lambda t: t.unique_key(11), True),
    (Unique(by=lambda args: args["full"]), lambda t: t.unique_key(1), lambda t: t.unique_key(2), True),
    (
        Unique(),
        lambda t: t.options(unique_key="a").unique_key(1),
        lambda t: t.options(unique_key="a").unique_key(2),
        True,
    ),
    (
        Unique(),
        lambda t: t.options(unique_key="a").unique_key(1),
        lambda t: t.options(unique_key="b").unique_key(1),
        False,
    ),
]


def test_a_key_is_made_of_the_bound_arguments() -> None:
    for number, (unique, one, other, are_equal) in enumerate(KEYS):
        task = make(unique)
        assert (one(task) == other(task)) is are_equal, number


def test_names_keep_their_order_but_those_of_a_set_have_the_same_in_every_process() -> None:
    names = [f"p{number}" for number in range(9, 0, -1)]
    assert Unique(by=names).by == tuple(names)
    assert Unique(by=set(names)).by == Unique(by=frozenset(names)).by == tuple(sorted(names))


def test_a_key_has_the_tasks_name_or_its_scope_in_it_and_a_bounded_length() -> None:
    assert make().unique_key(1, why="x" * 100_000).startswith("sync:")
    assert len(make().unique_key(1, why="x" * 100_000)) == len("sync:") + 32
    assert make(Unique(scope="users")).unique_key(1).startswith("users:")
    assert make().options(unique_key="user-7").unique_key(1) == "sync:user-7"


def test_a_key_that_cannot_be_made_is_an_error_of_the_call() -> None:
    class Opaque: ...

    for unique, value, message in [
        (Unique(by="why"), Opaque(), r"^task 'sync': no unique key can be made of the arguments: "),
        (Unique(by=lambda _: Opaque()), 1, r"^task 'sync': no unique key can be made of the arguments: "),
        (Unique(by=lambda _: None), 1, r"^task 'sync': the function of Unique\(by=...\) returned None"),
        (Unique(by=lambda args: args["nobody"]), 1, r"^task 'sync': .* has failed: KeyError: 'nobody'"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            make(unique).unique_key(1, why=value)
    with pytest.raises(ArgumentError, match="user_id"):
        make().unique_key()


def test_a_task_without_unique_has_no_keys() -> None:
    app = App("shop", url="redis://nowhere")

    @app.task
    async def plain(user_id: int) -> None: ...

    with pytest.raises(ConfigError, match="its jobs are not unique"):
        plain.unique_key(1)
    assert plain.options(unique_key="a").unique_key(1).endswith(".plain:a")


def test_a_key_chooses_the_shard_so_no_shard_key_may_be_given() -> None:
    with pytest.raises(ConfigError, match="shard_key and a unique key"):
        make().options(shard_key="a").unique_key(1)


def test_a_task_that_is_known_by_name_only_needs_a_key() -> None:
    app = App("shop", url="redis://nowhere")
    with pytest.raises(ConfigError, match=r"Unique\(by='user_id'\): the task is not known here; give unique_key"):
        app.by_name("other").options(unique=Unique(by="user_id")).unique_key(1)
    with pytest.raises(ConfigError, match=r"Unique\(\): the task is not known here; give unique_key"):
        app.by_name("other").options(unique=Unique()).unique_key(1)
    assert app.by_name("other").options(unique_key="a").unique_key(1) == "other:a"


def test_a_scope_is_of_one_queue() -> None:
    app = App("shop", url="redis://nowhere", routes={"b": "mail"})

    @app.task(name="a", unique=Unique(scope="users"), queue="mail")
    async def first(user_id: int) -> None: ...

    @app.task(name="b", unique=Unique(scope="users"))
    async def second(user_id: int) -> None: ...

    with pytest.raises(
        ConfigError, match=r"^task 'c': Unique\(scope='users'\): its queue is 'default' and that of"
    ):

        @app.task(name="c", unique=Unique(scope="users"))
        async def third(user_id: int) -> None: ...

    assert "c" not in app.tasks
    assert first.unique_key(1) == second.unique_key(1)


@pytest.mark.anyio
async def test_app_unique_takes_keys_only() -> None:
    app = App("shop", url="redis://nowhere")
    for wrong in ("", "x" * 801, 7):
        with pytest.raises(ArgumentError, match="expected a unique key"):
            await app.unique.owner(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"app\.unique: queue"):
        await app.unique.release("a:b", queue="no queue")


def test_a_whole_number_has_one_key_however_it_is_written() -> None:
    """A worker makes 1.0 of a 1 that was sent to a parameter `x: float` by the task's name."""
    task = make()
    assert task.unique_key(1) == task.unique_key(1.0)
    assert task.unique_key(1, why={"a": [1, 2**60]}) == task.unique_key(1, why={"a": [1.0, float(2**60)]})
    keys = {task.unique_key(each) for each in (1, 1.5, float("inf"), float("nan"), "1", b"\xcb", [b"\xcb", 1.0])}
    assert len(keys) == 7
