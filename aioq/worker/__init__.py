"""The worker. Its duties are in `duties/`, the run of one job is in `run/`, child processes are in `processes/`.

`worker` is its life cycle, `wiring` connects the duties, `queue_duties` are those of one queue, `steering` changes
a worker that serves. `app_parts` is what it needs of its App, `placement` in which shards its schedules are,
`identity` its ids, `about` what it says of itself, `requests` what operators ask it for, `stacks` shows where its
tasks and threads are, `health` whether it does its work. `slots` is how many jobs it takes, `weights` how many of
them a job has, `shares` which queue may take them, `claim_plan` what is claimed when, `wait_plan` how it waits for
more, `held_jobs` what it has, `lending` gives the slot of a job that waits to another one, `forks` ends forks that
a task leaves to themselves. `failures` makes texts of exceptions, `trouble` decides which errors of a duty are
logged.

Imports `worker/duties`, `worker/run`, `schedules`, `tasks`, `producer`, `results`, `limiters`, `store`, `wire`,
`jobs`, `config`, `util`, `errors` and `public`.
"""

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
