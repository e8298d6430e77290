"""Logging is one for the whole process: who changes it in a test puts it back."""

import logging
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def put_back() -> Generator[None]:
    """Leave levels, handlers, what is disabled, and the record factory as they were before.

    A project that a test loads into its own process may configure logging, as those of users do; `dictConfig` for
    one disables all loggers that are there, and later tests would see no records.
    """
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    before = {each: (each.level, list(each.handlers), each.disabled, each.propagate) for each in _all(root)}
    yield
    for logger in _all(root):
        level, handlers, disabled, propagate = before.get(logger, (logging.NOTSET, [], False, True))
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.disabled, logger.propagate = disabled, propagate
    logging.setLogRecordFactory(factory)


def _all(root: logging.Logger) -> list[logging.Logger]:
    return [root, *(each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger))]
