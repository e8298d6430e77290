"""Queues on a command line, with the most slots of a worker that their jobs take: `mail=10`, or `mail` for all."""

import re
from collections.abc import Iterable

from aioq.config.validators import MAX_COUNT
from aioq.errors import ConfigError
from aioq.util.printable import brief


def queue_and_slots(option: str, text: str) -> tuple[str, int | None]:
    """The queue and its slots, None for all.

    Raises:
        ConfigError: the slots are no number, or too many to be meant.
    """
    queue, equals, number = text.partition("=")
    if not equals:
        return queue, None
    return queue, _count(number, f"{option} {brief(text)}: expected NAME=SLOTS")


def new_size(option: str, text: str) -> tuple[str | None, int]:
    """A number of slots, and the queue whose jobs take no more than these; None where they are all of a worker's.

    Raises:
        ConfigError: the slots are no number, or too many to be meant.
    """
    queue, equals, number = text.rpartition("=")
    return (queue if equals else None), _count(number, f"{option} {brief(text)}: expected SLOTS or NAME=SLOTS")


def _count(number: str, expected: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,9}", number) or int(number) > MAX_COUNT:
        raise ConfigError(f"{expected} with a number of slots from 1 to {MAX_COUNT}")
    return int(number)


def with_slots(texts: Iterable[str]) -> dict[str, int | None]:
    """The queues of `-q` by their slots, None for all.

    Raises:
        ConfigError: the slots of one are wrong, or it is given twice with different ones.
    """
    found: dict[str, int | None] = {}
    for text in texts:
        queue, slots = queue_and_slots("-q", text)
        if found.setdefault(queue, slots) != slots:
            raise ConfigError(f"-q {brief(text)}: this queue is given twice, with different numbers of slots")
    return found
