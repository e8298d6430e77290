"""What a worker says of itself to the server, for those who operate it; and when it says so again."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from aioq.public import public
from aioq.store.leases import RenewalMode

if sys.platform != "win32":
    import resource

MUCH_MEMORY = 0.1
"""By what part the memory must have changed to be reported again. A guess: enough to see a leak."""

MUCH_LAG = 0.1
"""By how many seconds the lag of the event loop must have changed, likewise."""


@public
class WorkerFigures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker's own figures.

    Attributes:
        jobs_run: runs whose end is written, since its start.
        refused: outcomes and progress reports that were refused, because another worker had taken the job over.
        reconnects: how often a connection to the server broke and was made again: of those of its leases and of
            its subscription.
        loop_lag: the longest time, in seconds, for which its event loop was blocked in the last minute or two.
        rss: its memory in bytes (the resident set); on systems without `/proc` the most it ever had; None if that
            is not known.
    """

    jobs_run: int = 0
    refused: int = 0
    reconnects: int = 0
    loop_lag: float = 0.0
    rss: int | None = None

    def differs_much(self, other: "WorkerFigures") -> bool:
        """Whether these figures are to be reported after the other ones."""
        rss, before = self.rss or 0, other.rss or 0
        return (
            (self.jobs_run, self.refused, self.reconnects) != (other.jobs_run, other.refused, other.reconnects)
            or abs(rss - before) > MUCH_MEMORY * before
            or abs(self.loop_lag - other.loop_lag) > MUCH_LAG
        )


class About(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker says of itself. A field that a reader does not know is ignored.

    Attributes:
        host: the host's name.
        pid: the process id.
        version: the version of aioq.
        python: the version of Python.
        queues: its queues, without their shards.
        slots: how many jobs it runs at once.
        queue_slots, queue_weights: by queue, the most slots that its jobs take, and its weight; if set.
        task_slots: by task, how many slots a job of it takes, if these are several.
        lease_ms: how long its lease lasts after a renewal.
        paused: whether it takes no jobs.
        draining: whether it ends.
        supervised: whether it is one of several processes, which is replaced when it ends.
        tasks: the tasks that it knows, as `marks_of` in `aioq/store/leases.py` returns them.
        figures: its figures.
        rev: which of the things that it has said this is: the highest counts.
    """

    host: str
    pid: int
    version: str
    python: str
    queues: tuple[str, ...]
    slots: int
    lease_ms: int
    queue_slots: Mapping[str, int] = {}
    queue_weights: Mapping[str, int] = {}
    task_slots: Mapping[str, int] = {}
    paused: bool = False
    draining: bool = False
    supervised: bool = False
    tasks: bytes | None = None
    figures: WorkerFigures = WorkerFigures()
    rev: int = 0


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(About)


def decode_about(encoded: bytes) -> About | None:
    """What a worker has said; None if it has said nothing that can be read."""
    with contextlib.suppress(msgspec.MsgspecError):
        return _DECODER.decode(encoded) if encoded else None
    return None


class Announcer:
    """Decides with which renewals of its leases a worker says something of itself.

    With each new lease it says all. If somebody has changed something, it says that with the next renewal of each
    lease, so that who looks at one queue alone knows it. Its figures go with the lease of one queue, its home, and
    with a sweep, if they have changed much. An idle worker says nothing.

    The thread of the leases calls it, and `changed` may be called from any thread.

    Args:
        describe: what the worker says; `rev` is set here.
        home: the queue whose lease carries figures.
    """

    def __init__(self, describe: Callable[[], About], home: Callable[[], str]) -> None:
        self._describe = describe
        self._home = home
        self._rev = 0
        self._changes = 0
        self._knows: dict[str, int] = {}  # by queue, how many changes were reported there
        self._reported = WorkerFigures()
        self._reported_at = ""

    def changed(self) -> None:
        """Something has changed that is to be reported with the next renewal of each lease."""
        self._changes += 1

    def due(self, queue: str, mode: RenewalMode) -> bytes:
        """What the next renewal of a queue's lease says; empty for nothing."""
        is_home = queue == self._home()
        if mode == "join" or self._knows.get(queue) != self._changes:
            return self._encoded(queue, is_home=is_home)
        if not is_home:
            return b""
        if self._reported_at != queue:
            return self._encoded(queue, is_home=True)
        if mode == "sweep" and self._describe().figures.differs_much(self._reported):
            return self._encoded(queue, is_home=True)
        return b""

    def failed(self, queue: str) -> None:
        """A renewal that said something has failed."""
        self._knows.pop(queue, None)

    def _encoded(self, queue: str, *, is_home: bool) -> bytes:
        self._knows[queue] = self._changes  # before it is described: what changes meanwhile is said once more
        if is_home:
            self._reported_at = queue
        about = self._describe()
        self._rev += 1
        self._reported = about.figures
        return _ENCODER.encode(msgspec.structs.replace(about, rev=self._rev))


def resident_memory() -> int | None:
    """The memory of this process in bytes; without `/proc` the most it ever had."""
    if sys.platform == "win32":
        return None
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
