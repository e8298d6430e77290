"""Passes a call through the middleware's `send`, and checks after each layer whether the call is still valid."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

from aioq.errors import ArgumentError
from aioq.jobs.headers import wrong_headers
from aioq.jobs.middleware import Middleware, Outgoing

Forward = Callable[[Outgoing], Awaitable[bool]]


def inward(layers: Sequence[Middleware], last: Forward) -> Forward:
    """A function that passes a call through the layers, outermost first, and then to `last`.

    It raises what they raise, and `ArgumentError` if a layer has changed the call to one that cannot be sent.
    Whether the arguments match the task's signature is only checked in the worker.
    """
    forward = last
    for layer in reversed(layers):
        forward = partial(_through, layer, partial(_checked, layer, forward))
    return forward


async def _through(layer: Middleware, forward: Forward, outgoing: Outgoing) -> bool:
    return await layer.send(outgoing, forward)


async def _checked(layer: Middleware, forward: Forward, outgoing: Outgoing) -> bool:
    if wrong := wrong_headers(outgoing.headers) or _wrong_arguments(outgoing.args, outgoing.kwargs):
        raise ArgumentError(f"task {outgoing.task!r}: middleware {type(layer).__qualname__}: {wrong}")
    return await forward(outgoing)


def _wrong_arguments(args: object, kwargs: object) -> str:
    if not isinstance(args, (tuple, list)):
        return f"args={args!r}: expected a tuple of the positional arguments"
    if not isinstance(kwargs, dict) or not all(
        isinstance(name, str) for name in cast("dict[object, Any]", kwargs)
    ):
        return f"kwargs={kwargs!r}: expected a dict of the keyword arguments"
    return ""
