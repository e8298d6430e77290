"""A project whose logging raises, and whose types and exceptions raise when they are built or looked at."""

import asyncio
import logging
import os
from dataclasses import dataclass
from typing import Any

from aioq import App, current_job

app = App()
HERE = os.environ.get("BESIDE") == "worker"


class Alert(logging.Handler):
    """Sends what fails to a service, which is down."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ConnectionRefusedError("the alert service is down")


def _set_up_logging() -> None:
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.job_id = record.task = "-"
        return record

    logging.setLogRecordFactory(factory)
    logging.getLogger().addHandler(logging.StreamHandler())
    logging.getLogger().addHandler(Alert(level=logging.ERROR))


if HERE:
    _set_up_logging()


@dataclass
class Doc:
    how: str

    def __post_init__(self) -> None:
        if HERE and self.how == "exit":
            raise SystemExit(3)
        if HERE and self.how == "interrupt":
            raise KeyboardInterrupt
        if HERE and self.how == "cancelled":
            raise asyncio.CancelledError


class OddError(Exception):
    @property
    def __traceback__(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise SystemExit(4)

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise SystemExit(5)


@app.task
async def index(doc: Doc) -> str:
    current_job().log.error("indexing")
    return doc.how


@app.task(executor="process")
def index_in_a_process(doc: Doc) -> str:
    current_job().log.error("indexing")
    logging.getLogger("mine").info("indexing")
    return doc.how


@app.task
async def fails() -> None:
    raise OddError("an ordinary failure")


@app.task(executor="process")
def fails_in_a_process() -> None:
    raise OddError("an ordinary failure")
