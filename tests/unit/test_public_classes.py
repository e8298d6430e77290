"""Public classes: their name is the one they are imported by, and errors survive pickle and copy."""

import copy
import importlib
import inspect
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import aioq
from aioq import App, Failure, JobFailed, Retry
from aioq.jobs.retry import RetryRule
from aioq.util.exception_names import class_names

CLASSES = [name for name in aioq.__all__ if inspect.isclass(getattr(aioq, name))]
ERRORS = [name for name in CLASSES if issubclass(getattr(aioq, name), BaseException)]
INSIDE = {"BadArgumentsError", "WorkerEndedError", "SlotUnservedError", "LostInputError"}
"""Those that are made into another one before a user sees them: a failure of the job, the end of `aioq demo`."""


def error_classes(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    for each in kind.__subclasses__():
        yield each
        yield from error_classes(each)


@pytest.mark.parametrize("name", CLASSES)
def test_a_public_class_says_the_name_it_is_imported_by(name: str):
    kind = getattr(aioq, name)
    assert (kind.__module__, kind.__qualname__) == ("aioq", name)
    assert pickle.loads(pickle.dumps(kind)) is kind
    get_type_hints(kind)  # what FastAPI asks of one: nothing is written so that only its module can read it


def test_every_error_of_aioq_is_public():
    for module in pkgutil.walk_packages(aioq.__path__, "aioq."):
        if module.name not in {"aioq.__main__", "aioq.cli.demo.tasks", "aioq.cli.worker.child_env"}:
            importlib.import_module(module.name)
    known = {getattr(aioq, name) for name in ERRORS}
    ours = {kind for kind in error_classes(aioq.AioqError) if kind.__module__.partition(".")[0] == "aioq"}
    assert {kind.__name__ for kind in ours - known} == INSIDE


def test_every_public_error_is_in_the_table_of_the_docs():
    page = (Path(aioq.__file__).parents[1] / "docs" / "faq.md").read_text().partition("\n## Every error\n")[2]
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    verdicts = {"Cancel", "Fail", "Retry", "Snooze"}
    assert sorted(rows) == sorted(set(ERRORS) - verdicts)
    assert all(f"`{name}`" in page for name in verdicts)
    for name, text in re.findall(r"^\| `(\w+)` \|(.*)", page, re.MULTILINE):
        for base in re.findall(r"An? `(\w+)`(?: too)?(?:\.| \|)", text):
            assert base in {each.__name__ for each in getattr(aioq, name).__mro__}, name


EXAMPLES: dict[str, Callable[[], BaseException]] = {
    "SendError": lambda: aioq.SendError("two jobs", ("a", "b")),
    "QueueFullError": lambda: aioq.QueueFullError("full", ("a1",), queue="mail", size=3, max_size=3),
    "DuplicateJobError": lambda: aioq.DuplicateJobError("it is there", "a1"),
    "ScheduleConflictError": lambda: aioq.ScheduleConflictError("'x' was changed", "x"),
    "ScheduleNotFoundError": lambda: aioq.ScheduleNotFoundError("there is no 'x'", "x"),
    "JobError": lambda: aioq.JobError("it went", "a1"),
    "JobNotFoundError": lambda: aioq.JobNotFoundError("it went", "a1"),
    "JobCancelledError": lambda: aioq.JobCancelledError("it went", "a1"),
    "WorkerNotFoundError": lambda: aioq.WorkerNotFoundError("there is no 'w'", "w"),
    "WorkerRefusedError": lambda: aioq.WorkerRefusedError("it is stopping", "w"),
    "WouldDeadlock": lambda: aioq.WouldDeadlock("a1 waits", "a1", ("b", "a1")),
    "RemoteError": lambda: aioq.RemoteError("shop.Late", "too late", "Traceback ..."),
    "JobFailed": lambda: JobFailed("a1", "shop.add", Failure("shop.Late", "too late", "Traceback ...")),
    "FlowFailed": lambda: aioq.FlowFailed(
        "a1", "flow:ingest", Failure("shop.Late", "too late"), node="parse", cancelled=("store",), dropped=3
    ),
    "Retry": lambda: Retry(5, delay=3, on=(OSError,)),
    "Snooze": lambda: aioq.Snooze(3),
}
"""Of those whose constructor takes something else than a message."""


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize(
    "again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"]
)
def test_an_error_that_goes_to_another_process_comes_back_as_it_was(name: str, again: Callable[[Any], Any]):
    """In `concurrent.futures`, an error of a process that cannot be unpickled breaks the whole pool."""
    make = EXAMPLES.get(name)
    error = getattr(aioq, name)("why not") if make is None else make()
    error.add_note("a note")
    back = again(error)
    assert (type(back), str(back), back.args) == (type(error), str(error), error.args)
    assert vars(back) == vars(error)


def test_a_failed_job_keeps_the_remote_error_as_its_cause():
    back = pickle.loads(pickle.dumps(EXAMPLES["JobFailed"]()))
    assert isinstance(back.__cause__, aioq.RemoteError)
    assert back.__cause__.traceback == "Traceback ..."


@pytest.mark.parametrize("written", ["aioq.Fail", "aioq.jobs.verdicts.Fail", aioq.Fail])
def test_both_names_of_a_public_class_are_understood(written: Any):
    assert Retry(on=written).rule.on == ("aioq.Fail",)


@pytest.mark.parametrize("stored", ["aioq.ServerError", "aioq.errors.ServerError"])
def test_a_rule_that_was_stored_with_either_name_holds(stored: str):
    names = class_names(aioq.ServerUnavailableError())
    assert names[0] == "aioq.ServerUnavailableError"
    assert RetryRule(attempts=2, on=(stored,)).allows(names)
    assert not RetryRule(attempts=2, never=(stored,)).allows(names)


@pytest.mark.anyio
async def test_who_awaits_a_job_is_shown_the_public_name(caplog: pytest.LogCaptureFixture):
    app = App("shop", url=None)

    @app.task
    async def fails() -> None:
        raise aioq.Fail("why")

    async with app.test():
        handle = await fails.send()
        with pytest.raises(JobFailed) as caught:
            await handle
        info = await handle.info()
    assert (caught.value.error.type, caught.value.error.summary) == ("aioq.Fail", "aioq.Fail: why")
    assert info is not None
    assert info.error is not None
    assert info.error.type == "aioq.Fail"
    assert "aioq.Fail: why" in caplog.text
    assert "aioq.jobs.verdicts" not in caplog.text + str(caught.value) + caught.value.error.traceback
