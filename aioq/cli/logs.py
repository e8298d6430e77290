"""The worker's log: lines for people, or one JSON object a line for machines."""

import logging
import sys
import traceback
from datetime import UTC, datetime

import msgspec

TEXT_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"

_EXTRAS = ("job_id", "task", "queue")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, RFC 3339), level, logger, message, the job's fields, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        fields |= {name: value for name in _EXTRAS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return msgspec.json.encode(fields, enc_hook=str).decode()


def set_up_logging(level: str, log_format: str) -> None:
    """Send the log to standard error.

    A root logger that the user's own module has set up is left as it is, but for the level.

    Args:
        level: debug, info, warning, error or critical.
        log_format: text or json.
    """
    root = logging.getLogger()
    root.setLevel(level.upper())
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(TEXT_FORMAT))
    root.addHandler(handler)
