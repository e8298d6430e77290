"""The worker: `worker.py` connects the services, each of the other files is one duty or one step."""

from aioq.worker.worker import Host, Worker, worker_queues

__all__ = ["Host", "Worker", "worker_queues"]
