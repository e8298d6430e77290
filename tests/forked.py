"""The process that `tests.forkserver` forks `aioq` commands and scripts from; not imported, but run.

Its arguments are the number of its socket, the directory of the aioq under test, and modules to import besides.

It has imported what commands import, and waits. For each request it forks, and the fork becomes what `python -m
aioq` or `python script.py` in a process of its own would be: the request's directory, environment, arguments and
standard streams, a session of its own, and an ending as Python ends. So this file is a script whose last statement
the fork runs.
"""

import builtins
import gc
import importlib
import importlib.machinery
import json
import os
import pathlib
import runpy
import select
import socket
import sys
import types
from typing import Any, TypedDict


class Request(TypedDict):
    """What a fork is to become."""

    command: list[str]
    folder: str
    environment: dict[str, str]


MODULES = (
    "aioq.cli.main",
    "aioq.cli.check",
    "aioq.cli.schedules",
    "aioq.cli.worker.command",
    "aioq.store.redis",
    "aioq.worker.worker",
)
"""What each command imports when it is called; `aioq` imports its parts late."""


def main(control: socket.socket) -> Request | None:
    """Answer requests until the other end closes; in a fork, return its request."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, int] = {}  # process ids by the descriptor that tells of their end
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in running:
                poll.unregister(descriptor)
                os.close(descriptor)
                _, status = os.waitpid(pid := running.pop(descriptor), 0)
                control.send(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}).encode())
                continue
            message, streams, _, _ = socket.recv_fds(control, 1 << 20, 3)
            if not message:
                return None
            request: Request = json.loads(message)
            pid = os.fork()
            if pid == 0:
                _become(request, streams)
                return request
            for stream in streams:
                os.close(stream)
            running[ended := os.pidfd_open(pid)] = pid
            poll.register(ended, select.POLLIN)
            control.send(json.dumps({"started": pid}).encode())


def _become(request: Request, streams: list[int]) -> None:
    """Make this fork what a new process would be."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(request["folder"])
    environment = request["environment"]
    os.environ.clear()
    os.environ.update(environment)
    path = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    what = request["command"][1]
    first = os.getcwd() if what == "-m" else os.path.dirname(os.path.realpath(what))
    sys.path[:] = [first, *path, *(each for each in sys.path if each not in path)]
    sys.orig_argv = request["command"]
    importlib.invalidate_caches()
    sys.excepthook = _without_frames_of_this_file
    if "COVERAGE_PROCESS_CONFIG" in os.environ or "COVERAGE_PROCESS_START" in os.environ:
        importlib.import_module("coverage").process_startup(force=True)


def _without_frames_of_this_file(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    if trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


def _as_main(file: str) -> tuple[types.CodeType, dict[str, Any]]:
    """The code of a script, and its globals: those of the module `__main__`."""
    loader = importlib.machinery.SourceFileLoader("__main__", file)
    script = sys.modules["__main__"] = types.ModuleType("__main__")
    script.__loader__ = loader
    script.__dict__.update(__annotations__={}, __builtins__=builtins, __file__=file, __cached__=None)
    return loader.source_to_code(pathlib.Path(file).read_bytes(), file), vars(script)


if __name__ == "__main__":
    sys.path[0] = sys.argv[2]  # in place of this file's directory
    cli: Any = importlib.import_module("aioq.cli")
    entry = cli.main
    for name in (*MODULES, *sys.argv[3:]):
        importlib.import_module(name)
    cli.main = entry  # the module of the same name has taken the function's place
    gc.freeze()  # a fork looks through none of these at its end, which takes longer than all else it does
    del sys.path[0]
    with socket.socket(fileno=int(sys.argv[1])) as control:
        request = main(control)
        control.detach()
    if request is not None and request["command"][1] == "-m":
        __name__ = "runpy"
        sys.argv = request["command"][2:]  # without `-m`; the module's name becomes its file's
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif request is not None:
        sys.argv = request["command"][1:]
        exec(*_as_main(os.path.abspath(sys.argv[0])))
