"""The loggers of aioq, which raise nothing.

Users add code of their own to logging: record factories, filters, formatters, handlers. Handlers of the standard
library report their errors on standard error, but others raise them (an alert service is down, a record lacks a
field that a formatter needs). A log line must not end the job or the duty that writes it. So everything that aioq
logs goes through `logger`, and an error in it is reported on standard error, once for each kind.
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
"""How many kinds of errors in logging one process reports."""

_said: set[tuple[str, str]] = set()


class GuardedLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that raises nothing.

    Its `extra` fields go into each record, also where a record factory has set fields of the same names.
    """

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log the line, or report once that this fails; all other methods call this one."""
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
        # The caller's line: only two frames of this module, and none of `logging`, are between it and here.
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
        except KeyError:  # the record factory has set a field that is in `extra` too: the job's own one counts
            record = make(None, stack)
            record.__dict__.update(extra)
        logger.handle(record)


def logger(name: str) -> GuardedLogger:
    """The guarded logger of that name."""
    return GuardedLogger(logging.getLogger(name), {})


def report_fault(name: str, fault: BaseException) -> None:
    """Report on standard error that a log line was lost, once for each kind of fault; raises nothing."""
    try:
        kind = (name, full_name_of(type(fault)))
        if kind in _said or len(_said) >= MAX_SAID:
            return
        _said.add(kind)
        words = (
            f"aioq: logging a line of {name} raised {kind[1]}; the line may be lost, but nothing else is. Look at "
            "the logging handlers, filters, formatters and the record factory of this process. This is said once."
        )
        sys.stderr.write(f"{words}\n{_shown(fault)}\n")
    except BaseException:  # noqa: S110 - standard error may be closed too; nothing is left to write to
        pass


def _shown(fault: BaseException) -> str:
    try:
        return printable_lines("".join(traceback.format_exception(fault)).rstrip())
    except BaseException:
        return "(it cannot be shown)"
