"""Sends the calls of one task: by themselves, or each with calls that are run after it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

from aioq.errors import ArgumentError, ConfigError
from aioq.flows.flow import Flow
from aioq.flows.sending import FlowSender
from aioq.jobs.options import Options, listed
from aioq.producer.call import Call
from aioq.producer.sender import Route
from aioq.results.handle import JobHandle
from aioq.util.printable import brief
from aioq.wire.signature import Signature


class Sends:
    """Sends the calls of one task with the same options."""

    def __init__(
        self, sender: FlowSender, name: str, options: Options, signature: Callable[[], Signature]
    ) -> None:
        self.sender = sender
        self.name = name
        self.options = options
        self.signature = signature
        self._route: Route | None = None

    async def send(self, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
        """Send a call; returns once the server has the job."""
        route = self._route or self._find_route()
        if kwargs or len(args) not in route.fitting:  # most calls are valid by their number of arguments alone
            route.signature.check(args, kwargs)
        handle, sent = self.sender.begin(route, args, kwargs)
        added = await sent
        if added is True or added is False:
            handle.added = added
        elif route.unique is not None:
            route.unique.concede(handle, added)
        return handle

    async def send_many(self, arguments: Iterable[Sequence[Any]]) -> list[JobHandle[Any]]:
        """Send one call for each tuple of positional arguments."""
        route, every = self._route or self._find_route(), listed(arguments, "tuples: send_many([(1,), (2,)])")
        checked: set[int] = set()
        for position, args in enumerate(every):
            if not isinstance(args, (tuple, list)):
                raise ArgumentError(
                    f"task {self.name!r}: send_many item {position} is {brief(args)[:100]}: "
                    f"expected a tuple of the positional arguments, {_as_item(args)}"
                )
            if len(args) not in checked:  # the check depends on the number of arguments only
                route.signature.check(args, {})
                checked.add(len(args))
        return await self.sender.send_alike(route, every)

    def unique_key(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The unique key of a call."""
        route = self._route or self._find_route()
        route.signature.check(args, kwargs)
        if route.unique is None:
            raise ConfigError(f"task {self.name!r}: its jobs are not unique: @app.task(unique=Unique(...))")
        return route.unique.lock(args, kwargs).key

    def named(self, method: FunctionType) -> Callable[..., Any]:
        """A method of this object, under the task's name.

        Python's warning about a forgotten `await` names the function, so it says "coroutine 'shop.add.send' was
        never awaited".
        """
        copy = FunctionType(method.__code__, method.__globals__, method.__name__)
        copy.__qualname__ = f"{self.name}.{method.__name__}"
        copy.__doc__ = method.__doc__
        return MethodType(copy, self)

    def _find_route(self) -> Route:
        self._route = route = self.sender.route(self.name, self.signature(), self.options)
        return route


class SendsThen(Sends):
    """Sends calls each of which is followed by others: a small flow with the call as its first node.

    Args:
        before: sends the same calls by themselves.
        on_success: the calls that are run after it has succeeded.
        on_failure: those that are run after it has failed for good.
    """

    def __init__(self, before: Sends, on_success: Any, on_failure: Any) -> None:
        super().__init__(before.sender, before.name, before.options, before.signature)
        self.on_success, self.on_failure = on_success, on_failure
        self._flow().add(self._call((), {}), on_success=on_success, on_failure=on_failure)  # checks them

    async def send(self, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
        """Send a call; returns once the server has the whole flow."""
        flow, call = self._flow(), self._call(args, kwargs)
        call.signature.check(args, kwargs)
        node = flow.add(call, on_success=self.on_success, on_failure=self.on_failure)
        handle = (await flow.send(node))[node]
        handle.added = True
        return handle

    async def send_many(self, arguments: Iterable[Sequence[Any]]) -> list[JobHandle[Any]]:
        """Calls that are followed by others are sent one by one."""
        raise self.no_call("send_many")

    def no_call(self, what: str) -> ConfigError:
        """The error about something that is not done with such calls."""
        return ConfigError(
            f"task {self.name!r}: on_success and on_failure are for send, not for {what}; in a flow give them to "
            "flow.add(...)"
        )

    def _flow(self) -> Flow:
        return Flow(self.sender, self.name, {})

    def _call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call[Any]:
        return Call(self.name, args, kwargs, self.options, self.signature(), self.sender)


def _as_item(given: object) -> str:
    """How to send an object that is no item of `send_many`, for the end of the error message."""
    if isinstance(given, Call):
        return "and a call goes with app.send_many([...])"
    if isinstance(given, Mapping):
        return "and what has names goes with app.send_many([task.call(key=1), ...])"
    return f"for one argument ({brief(given)},)"
