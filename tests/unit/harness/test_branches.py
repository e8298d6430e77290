"""`tests/branches.py`: what it measures is what coverage's own tracer of each line measures."""

import os
import subprocess
import sys
from pathlib import Path

import coverage

from tests.branches import IS_NEEDED, Branches
from tests.forkserver import ROOT

SAMPLE = """
import asyncio
import os
import sys
import threading

import coverage


def both(values):
    for value in values:
        if value > 1 and (
            value < 9
            or value == 20
        ):
            yield value
        elif value:
            continue
        else:
            break
    else:
        yield None


def one_way(value):
    while value:
        value -= 1
        if value < 0:
            return "never"
    if (
        value
        or not [each for each in range(3)
                if each]
    ):
        return "never"
    try:
        if value == 0:
            raise ValueError
        print("never")
    except KeyError:
        return "never"
    except ValueError:
        pass
    return value


def matched(value):
    match value:
        case [first, *_] if first:
            return first
        case {"a": found}:
            return found
        case _:
            return {
                each: each
                for each in "ab"
                if each != value
            }


class Shut:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return True


async def later(count):
    for number in range(count):
        with Shut():
            if number:
                raise KeyError(number)
            await asyncio.sleep(0)
        yield number if number > 1 else -number


async def main():
    found = [each async for each in later(3) if each or each is None]
    return found if found else None


def fork():  # pragma: no cover
    # Another thread holds the locks of the tracer when the process forks.
    collector = coverage.Coverage.current()._collector
    tracer = collector.tracers[0]
    if not hasattr(tracer, "lock"):
        return True
    held, end = threading.Event(), threading.Event()

    def hold():
        with tracer.lock, collector.data_lock:
            held.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if tracer.lock.acquire(timeout=5) and collector.data_lock.acquire(timeout=5) else 1)
    end.set()
    thread.join()
    return os.waitpid(child, 0)[1] == 0


print([*both([1, 2, 20, 30, 0]), *both([]), *both([5])], one_way(3), matched([0]), matched([1]))
print(asyncio.run(main()))
print(fork(), hasattr(sys, "monitoring") and sys.monitoring.get_tool(1))
"""


def measure(folder: Path, more: str) -> tuple[list[str], coverage.Coverage]:
    """What the sample prints when it is measured, and what is measured."""
    folder.mkdir()
    (folder / "sample.py").write_text(SAMPLE)
    (folder / "rc").write_text(f"[run]\nbranch = true\nsource = {folder}\n{more}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "coverage", "run", "--rcfile=rc", "sample.py"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    measured = coverage.Coverage(data_file=folder / ".coverage", config_file=folder / "rc")
    measured.load()
    return done.stdout.splitlines(), measured


def test_lines_and_branches_are_those_of_coverages_own_tracer(tmp_path: Path) -> None:
    (printed, ours), (as_before, theirs) = (
        measure(tmp_path / "ours", "plugins = tests.branches"),
        measure(tmp_path / "theirs", "core = ctrace"),
    )
    assert printed[:2] == as_before[:2] == ["[2, 20, None, 5, None] 0 {'a': 'a', 'b': 'b'} 1", "[-1, 2]"]
    assert printed[2].startswith("True"), "a fork has a lock that another thread held"
    if IS_NEEDED:
        assert printed[2] == "True coverage.py"
    sample, same = (str(tmp_path / name / "sample.py") for name in ("ours", "theirs"))
    assert ours.analysis2(sample)[1:4] == theirs.analysis2(same)[1:4]
    assert ours.branch_stats(sample) == theirs.branch_stats(same)


TWO = """
import coverage

def measured():
    measuring = coverage.Coverage(data_file=None, config_file="rc")
    measuring.start()
    return measuring

first = measured()
import sample
going_on = sample.both([2, 3, 0, 20])
found = [next(going_on)]
first.stop()
second = measured()
found += going_on
second.stop()
print(found)
"""


def test_what_began_under_one_tracer_goes_on_under_another(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(SAMPLE.partition("print([")[0])
    (tmp_path / "two.py").write_text(TWO)
    (tmp_path / "rc").write_text(f"[run]\nbranch = true\nsource = {tmp_path}\nplugins = tests.branches\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "two.py"]
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[2, 3]\n", "")


def test_a_signal_that_comes_while_something_is_noted_waits_for_nobody() -> None:
    tracer = Branches.__new__(Branches)  # one that is not begun, for 3.11 cannot begin it
    tracer.renew_locks()
    with tracer.lock:
        assert tracer.lock.acquire(blocking=False)
        tracer.lock.release()
