import traceback
from pathlib import Path

import pytest

import aioq
from aioq.jobs.middleware import Middleware
from aioq.wire.messages import Failure
from aioq.worker.failures import ChildError, failure_of, message_of


class Shy(Exception):  # noqa: N818 - a name for the test
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Exiting(Exception):  # noqa: N818 - likewise
    def __str__(self) -> str:
        raise SystemExit(1)


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301 - it is to have a traceback
    except BaseException as caught:
        return caught


def test_type_message_and_traceback():
    failure = failure_of(raised(ValueError("no")))
    assert (failure.type, failure.message) == ("ValueError", "no")
    assert failure.traceback.startswith("Traceback (most recent call last):\n")
    assert failure.traceback.endswith("ValueError: no\n")
    assert "raise error" in failure.traceback


def test_causes_notes_and_groups_are_shown():
    error = ExceptionGroup("both", [ValueError("one"), KeyError("two")])
    error.add_note("a note")
    error.__cause__ = OSError("the cause")
    shown = failure_of(raised(error)).traceback
    for text in ("both (2 sub-exceptions)", "ValueError: one", "KeyError: 'two'", "a note", "OSError: the cause"):
        assert text in shown


def test_an_error_without_a_traceback():
    assert failure_of(ValueError("no")) == Failure("ValueError", "no", "ValueError: no\n")


@pytest.mark.parametrize("kind", [Shy, Exiting])
def test_an_error_without_words_does_not_raise(kind: type[Exception]):
    fault = "RuntimeError" if kind is Shy else "SystemExit"
    error = raised(kind())
    assert message_of(error) == f"<its message could not be read: {fault}>"
    failure = failure_of(error)
    assert failure.type == f"{__name__}.{kind.__qualname__}"
    assert failure.message == message_of(error)
    assert failure.traceback != ""


def test_a_traceback_that_cannot_be_formatted_does_not_raise(monkeypatch: pytest.MonkeyPatch):
    def format_exception(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(traceback, "format_exception", format_exception)
    assert failure_of(raised(ValueError("no"))) == Failure(
        "ValueError", "no", "<the traceback could not be formatted: RecursionError>"
    )


@pytest.mark.anyio
async def test_aioqs_own_frames_at_the_top_are_left_out():
    async def task() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        await Middleware().run(None, task)  # pyright: ignore[reportArgumentType]
    ours = caught.value.__traceback__
    assert ours is not None
    shown = failure_of(caught.value.with_traceback(ours.tb_next)).traceback
    assert str(Path(aioq.__file__).parent) not in shown
    assert __file__ in shown


def test_where_all_frames_are_aioqs_all_are_shown():
    with pytest.raises(aioq.ConfigError) as caught:
        aioq.Retry(attempts=0)
    ours = caught.value.__traceback__
    assert ours is not None
    assert "retry.py" in failure_of(caught.value.with_traceback(ours.tb_next)).traceback


def test_what_a_child_raised_is_shown_as_the_child_put_it():
    failure = Failure("shop.Odd", "no", "the child's traceback")
    assert failure_of(raised(ChildError(failure, ("shop.Odd",)))) is failure
