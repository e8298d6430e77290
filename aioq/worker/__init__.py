"""The worker: `worker` has its life cycle, `wiring` connects the duties; each duty is a file in `duties/`."""

from aioq.worker.duties.recovery import recover_dead
from aioq.worker.health import Health
from aioq.worker.identity import Incarnation, host_of, incarnation_prefix, this_host
from aioq.worker.worker import Worker

__all__ = [
    "Health",
    "Incarnation",
    "Worker",
    "host_of",
    "incarnation_prefix",
    "recover_dead",
    "this_host",
]
