"""The bodies of the tasks that every library runs, and what the adapters share."""

import asyncio
import time
import warnings

from benchmarks.ledger import mark

NAP = 0.005
"""Seconds that a `nap` takes."""


async def noop(number: int) -> int:
    """Does nothing but mark that it has run."""
    mark(number)
    return number


async def nap(number: int) -> int:
    """Waits for something else, as most jobs do."""
    await asyncio.sleep(NAP)
    mark(number)
    return number


def plain(number: int) -> int:
    """A plain function, which the library runs in a thread."""
    mark(number)
    return number


def plain_nap(number: int) -> int:
    """A nap for libraries without coroutines."""
    time.sleep(NAP)
    mark(number)
    return number


async def keep(text: str) -> str:
    """Carries a payload; it is queued and never run."""
    return text


def use_uvloop() -> None:
    """Make every new event loop one of uvloop, for libraries whose command does not do that itself."""
    import uvloop  # optional extra  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # policies are the only way into another command
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # pyright: ignore[reportDeprecated] - see above
