"""The loggers of aioq: what logging raises does not get past them.

Who configures logging brings code of their own into it: record factories, filters, formatters, handlers. Handlers
of the standard library report their own faults on standard error, others raise them (an alert service is down, a
record lacks the field that a formatter wants). A line is said beside a job or a duty, and must not end it; so
everything that aioq logs goes through `logger`, and what it raises is said once for each kind, on standard error.
"""

import logging
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from aioq.util.introspect import full_name_of, is_a, traceback_of
from aioq.util.printable import printable_lines

MAX_SAID = 20
"""How many kinds of faults of logging one process reports."""

_said: set[tuple[str, str]] = set()


class GuardedLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that raises nothing.

    Its `extra` fields go into each record, also where a record factory has set fields of the same names.
    """

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log, or say once that it cannot be done; all other methods come here."""
        try:
            if self.logger.isEnabledFor(level):
                self._emit(level, msg, args, **kwargs)
        except BaseException as fault:
            report_fault(self.logger.name, fault)

    def _emit(
        self,
        level: int,
        msg: object,
        args: tuple[object, ...],
        *,
        exc_info: Any = None,
        stack_info: bool = False,
        stacklevel: int = 1,
        extra: dict[str, object] | None = None,
    ) -> None:
        logger = self.logger
        extra = {**(self.extra or {}), **(extra or {})}
        # The caller's line: two frames of this module, and none of `logging`'s, are between it and here.
        file, line, function, stack = logger.findCaller(stack_info, stacklevel + 2)
        if is_a(exc_info, BaseException):
            exc_info = (type(exc_info), exc_info, traceback_of(exc_info))
        elif exc_info and not isinstance(exc_info, tuple):
            exc_info = sys.exc_info()
        make: Callable[[Any, Any], logging.LogRecord] = partial(
            *(logger.makeRecord, logger.name, level, file, line, msg, args, exc_info, function)
        )
        try:
            record = make(extra, stack)
        except KeyError:  # the record factory has set a field that is in `extra`: here the job's own is meant
            record = make(None, stack)
            record.__dict__.update(extra)
        logger.handle(record)


def logger(name: str) -> GuardedLogger:
    """The logger of that name, guarded."""
    return GuardedLogger(logging.getLogger(name), {})


def report_fault(name: str, fault: BaseException) -> None:
    """Say on standard error that a line of a logger was lost; once for each kind of fault, and raise nothing."""
    try:
        kind = (name, full_name_of(type(fault)))
        if kind in _said or len(_said) >= MAX_SAID:
            return
        _said.add(kind)
        words = (
            f"aioq: to log a line of {name} raised {kind[1]}; the line may be lost, nothing else is. Look at the "
            "logging handlers, filters, formatters and the record factory of this process. This is said once."
        )
        sys.stderr.write(f"{words}\n{_shown(fault)}\n")
    except BaseException:  # noqa: S110 - standard error may be closed too; nothing is left to write to
        pass


def _shown(fault: BaseException) -> str:
    try:
        return printable_lines("".join(traceback.format_exception(fault)).rstrip())
    except BaseException:
        return "(it cannot be shown)"
