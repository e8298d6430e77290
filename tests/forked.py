"""The process that `tests.forkserver` forks `aioq` commands and scripts from; not imported, but run.

Its arguments are the number of its socket, the directory of the aioq under test, and modules to import besides.

It has imported what commands import, and waits. For each request it forks, and the fork becomes what `python -m
aioq` or `python script.py` in a process of its own would be: the request's directory, environment, arguments and
standard streams, a session of its own, and an ending as Python ends. So this file is a script whose last statement
the fork runs.
"""

import asyncio
import atexit
import builtins
import ctypes
import fcntl
import gc
import importlib
import importlib.machinery
import json
import os
import pathlib
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict


class Request(TypedDict):
    """What a fork is to become.

    `passed` are the descriptors that it has besides its standard streams. A `sibling` is a child of the process
    that has started this one, and waits for it itself. Signals that are `blocked` wait until it lets them come.
    """

    command: list[str]
    folder: str
    environment: dict[str, str]
    passed: NotRequired[list[int]]
    sibling: NotRequired[bool]
    blocked: NotRequired[list[int]]


MODULES = (
    "aioq.cli.main",
    "aioq.cli.check",
    "aioq.cli.schedules",
    "aioq.cli.worker.command",
    "aioq.store.redis",
    "aioq.worker.processes.child",
    "aioq.worker.worker",
    "anyio._backends._asyncio",
    "encodings.idna",
    "importlib.resources.readers",
    "uvloop",
)
"""What each command imports when it is called, and each child; `aioq` imports its parts late, as does anyio."""

WITH_CHILDREN = frozenset({"worker", "demo"})
"""The commands that may start processes of aioq."""

USED_TO_THE_END = {*sys.builtin_module_names, "__main__", "linecache", "traceback", "tracemalloc", "warnings"}
"""Modules that Python looks for while it ends."""

IN_POOL = "from aioq.worker.processes.child import serve;"
"""In the code that a child of the pool runs."""

CLONE3, CLONE_PARENT = 435, 0x8000
"""The number of the system call, the same on all processors, and its flag."""

HIGH = 100
"""Descriptors from here on are no program's of the tests."""


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
            message, streams, _, _ = socket.recv_fds(control, 1 << 20, 10)
            if not message:
                return None
            request: Request = json.loads(message)
            is_sibling = request.get("sibling")
            pid = _fork_sibling() if is_sibling else os.fork()
            if pid == 0:
                control.detach()  # else its end would close the descriptor that gets its number
                return _become(request, streams)
            for stream in streams:
                os.close(stream)
            if is_sibling:
                control.send(json.dumps({"started": pid}).encode())
                continue
            running[ended := os.pidfd_open(pid)] = pid
            poll.register(ended, select.POLLIN)
            control.send(json.dumps({"started": pid}).encode())


def _become(request: Request, streams: list[int], mark: int | None = None) -> Request | None:
    """Make this fork what a new process would be; what is forked from here on behalf of it returns here too.

    The descriptor `mark` is closed as soon as it leads its session.
    """
    marks = [] if mark is None else [mark]
    beside = -1
    if WITH_CHILDREN.intersection(request["command"]):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            return _fork_siblings(theirs, [*streams, *marks], ours)
        theirs.close()  # likewise
        beside = fcntl.fcntl(ours.detach(), fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.setsid()
    for each in marks:
        os.close(each)
    _place(streams, request.get("passed", []), beside)
    os.chdir(request["folder"])
    environment = request["environment"]
    os.environ.clear()
    os.environ.update(environment)
    path = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    what = _without_warn_options(request["command"])[0]
    first = {"-m": os.getcwd(), "-c": ""}.get(what, os.path.dirname(os.path.realpath(what)))
    sys.path[:] = [first, *path, *(each for each in sys.path if each not in path)]
    sys.orig_argv = request["command"]
    sys.warnoptions[:] = request["command"][2 : -len(_without_warn_options(request["command"])) : 2]
    warnings._processoptions(sys.warnoptions)  # pyright: ignore[reportAttributeAccessIssue] - as Python itself does
    importlib.invalidate_caches()
    sys.excepthook = _without_frames_of_this_file
    if beside >= 0:
        _fork_children_by(socket.socket(fileno=beside))
    if "COVERAGE_PROCESS_CONFIG" in os.environ or "COVERAGE_PROCESS_START" in os.environ:
        measured = importlib.import_module("coverage").process_startup(force=True)
        measured._post_save_work = lambda: None  # what else there is of aioq: noted by the process of the tests
    return request


def _without_warn_options(command: Sequence[str]) -> Sequence[str]:
    """What follows the interpreter and its options `-W`, the only ones that a fork can have."""
    rest = command[1:]
    while rest[0] == "-W":
        rest = rest[2:]
    return rest


def _place(streams: Sequence[int], passed: Sequence[int], kept: int) -> None:
    """Give descriptors their numbers, and close all others but one."""
    wanted = [*range(3), *passed]
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, HIGH) for each in streams]
    for number, stream in zip(wanted, high, strict=True):
        os.dup2(stream, number)
    begin = 3
    for number in sorted([*passed, kept] if kept >= 0 else passed):
        os.closerange(begin, number)
        begin = number + 1
    os.closerange(begin, os.sysconf("SC_OPEN_MAX"))


# -- children of a fork -------------------------------------------------------------------------------------------
#
# A supervisor and a pool of processes start children, each of which makes the same imports once more. A fork of
# theirs would have their modules, and the locks of their threads. So beside each command that may have children
# there is a process that was forked from it before it began, and waits. What this one forks, with CLONE_PARENT, is
# not its own child but the command's, which waits for it and kills it as any other.


def _fork_siblings(control: socket.socket, *held: Any) -> Request | None:
    """Fork for the process that has forked this one, until that is gone; in what is forked, return its request."""
    streams, theirs = held
    theirs.close()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    for stream in (nothing, *streams):
        os.close(stream)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 10)
        if not message:
            os._exit(0)
        request: Request = json.loads(message)
        signal.pthread_sigmask(signal.SIG_SETMASK, request.get("blocked", []))  # inherited, as from its parent
        leads, mark = os.pipe()
        pid = _fork_sibling()
        if pid == 0:
            control.close()
            os.close(leads)
            return _become(request, descriptors, mark)
        os.close(mark)
        os.read(leads, 1)  # its end: `Popen` too returns when the child leads its session
        os.close(leads)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for each in descriptors:
            os.close(each)
        control.send(str(pid).encode())


def _fork_sibling() -> int:
    """As `os.fork`, but a child of this process's parent; -1 where the system refuses that."""
    clone_args = (ctypes.c_uint64 * 8)(CLONE_PARENT)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = ctypes.PyDLL(None).syscall(CLONE3, ctypes.byref(clone_args), ctypes.c_size_t(ctypes.sizeof(clone_args)))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return pid


def _fork_children_by(control: socket.socket) -> None:
    """Have the children of this process forked, as far as they are aioq's."""
    turn = threading.Lock()
    exec_new = asyncio.create_subprocess_exec

    def fork(request: Request, descriptors: list[int]) -> int:
        with turn:
            socket.send_fds(control, [json.dumps(request).encode()], descriptors)
            return int(control.recv(20))

    popen = popen_by(fork, _is_aioqs)

    async def exec_forked(*command: str, **options: Any) -> Any:
        return _Watched(popen(command, **options)) if _is_aioqs(command) else await exec_new(*command, **options)

    subprocess.Popen = popen
    asyncio.create_subprocess_exec = exec_forked


def popen_by(
    fork: Callable[[Request, list[int]], int], may: Callable[[Sequence[str], Mapping[str, str]], bool]
) -> type[subprocess.Popen[Any]]:
    """A `subprocess.Popen` that forks what it may; `fork` gives the id of a child of this process."""

    class Popen(subprocess.Popen[Any]):
        """One that forks."""

        def _execute_child(self, args: Any, *more: Any) -> None:
            _, preexec, _, passed, folder, given, _, _, shell, *pipes = more[:15]
            new_session = more[20]
            command = [args] if isinstance(args, str) else [os.fspath(each) for each in args]
            environment = dict(os.environ if given is None else given)
            if new_session and not (preexec or shell) and may(command, environment):
                streams = [
                    own if pipe == -1 else pipe for own, pipe in ((0, pipes[0]), (1, pipes[3]), (2, pipes[5]))
                ]
                request: Request = {
                    "command": command,
                    "folder": os.fspath(folder or os.getcwd()),
                    "environment": environment,
                    "passed": list(passed),
                    "blocked": [int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
                }
                self.pid = fork(request, [*streams, *passed])
                if self.pid > 0:
                    self._child_created = True
                    self._close_pipe_fds(*pipes)  # pyright: ignore[reportAttributeAccessIssue] - not in typeshed
                    return
            super()._execute_child(args, *more)  # pyright: ignore[reportAttributeAccessIssue] - likewise

    return Popen


def _is_aioqs(command: Sequence[str], _: object = None) -> bool:
    if command[0] != sys.executable or len(command) < 3:
        return False
    return list(command[1:3]) == ["-m", "aioq"] or (command[1] == "-c" and IN_POOL in command[2])


class _Watched:
    """As much of an `asyncio.subprocess.Process` as a supervisor uses, on any event loop."""

    def __init__(self, process: "subprocess.Popen[Any]") -> None:
        self._process = process
        self.pid = process.pid
        self.send_signal = process.send_signal

    async def wait(self) -> int:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        descriptor = os.pidfd_open(self.pid)
        try:
            loop.add_reader(descriptor, ended.set)
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return self._process.wait()


def _without_frames_of_this_file(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    if trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


def _keep_whole(modules: dict[str, types.ModuleType]) -> None:
    """Have Python take apart at its end only what this fork has imported itself.

    To take apart what it shares with its parent would copy all of that before, and take longer than its start.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(modules))
    for name in modules.keys() - USED_TO_THE_END:
        sys.modules.pop(name, None)


def _as_main(file: str, text: str | None = None) -> tuple[types.CodeType, dict[str, Any]]:
    """The code of a script, or of `-c`, and its globals: those of the module `__main__`."""
    script = sys.modules["__main__"] = types.ModuleType("__main__")
    script.__dict__.update(__annotations__={}, __builtins__=builtins)
    if text is not None:
        return compile(text, file, "exec"), vars(script)
    script.__loader__ = loader = importlib.machinery.SourceFileLoader("__main__", file)
    script.__dict__.update(__file__=file, __cached__=None)
    return loader.source_to_code(pathlib.Path(file).read_bytes(), file), vars(script)


if __name__ == "__main__":
    sys.path[0] = sys.argv[2]  # in place of this file's directory
    cli: Any = importlib.import_module("aioq.cli")
    entry = cli.main
    for name in (*MODULES, *sys.argv[3:]):
        importlib.import_module(name)
    cli.main = entry  # the module of the same name has taken the function's place
    importlib.import_module("pydantic").create_model("First", number=(int, ...))  # it imports the rest of it
    importlib.import_module("aioq.store.redis.scripts").library()  # kept for each that has it sent to its server
    atexit.register(_keep_whole, dict(sys.modules))
    gc.freeze()  # a fork looks through none of these at its end, which takes longer than all else it does
    del sys.path[0]
    with socket.socket(fileno=int(sys.argv[1])) as control:
        request = main(control)
        control.detach()
    command = [] if request is None else _without_warn_options(request["command"])
    if command and command[0] == "-m":
        __name__ = "runpy"
        sys.argv = [*command[1:]]  # without `-m`; the module's name becomes its file's
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif command and command[0] == "-c":
        sys.argv = ["-c", *command[2:]]
        exec(*_as_main("<string>", command[1]))
    elif command:
        sys.argv = [*command]
        exec(*_as_main(os.path.abspath(sys.argv[0])))
