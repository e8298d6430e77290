"""The worker: `worker.py` connects the services, each of the other files is one duty or one step."""

from aioq.worker.duties.recovery import recover_dead
from aioq.worker.health import Health
from aioq.worker.identity import Life, host_of, life_prefix, this_host
from aioq.worker.worker import Worker

__all__ = [
    "Health",
    "Life",
    "Worker",
    "host_of",
    "life_prefix",
    "recover_dead",
    "this_host",
]
