"""The lifespans of an App: what a worker sets up before its first job and tears down after its last."""

import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, cast

from aioq.errors import ConfigError
from aioq.util.naming import whereabouts
from aioq.util.printable import brief

Lifespan = Callable[[], AbstractAsyncContextManager[Any]]

_EXAMPLE = "write `async def` with one `yield`, or @asynccontextmanager"


class Lifespans:
    """The lifespans of one App, in the order of their registration.

    Attributes:
        state: the value they yielded, while they are entered: one value, a tuple of several, or None.
    """

    def __init__(self) -> None:
        self._registered: dict[tuple[str, str] | int, Lifespan] = {}
        self.state: Any = None

    def add(self, function: Any) -> Lifespan:
        """Register a lifespan. It replaces one whose function has the same module and name.

        Raises:
            ConfigError: the function cannot be a lifespan; the message says what to write.
        """
        _check(function)
        ready = function
        if _is_async_generator(function):
            ready = asynccontextmanager(function)
        self._registered[_identity(function)] = ready
        return cast("Lifespan", ready)

    @asynccontextmanager
    async def entered(self) -> AsyncGenerator[Any]:
        """Enter all in the order of their registration, give their value, and leave them in reverse order."""
        values: list[Any] = []
        async with AsyncExitStack() as stack:
            stack.callback(self._forget)
            for lifespan in tuple(self._registered.values()):
                values.append(await stack.enter_async_context(lifespan()))
                self.state = combined(values)  # later lifespans may read it
            yield self.state

    def _forget(self) -> None:
        self.state = None


def combined(values: list[Any]) -> Any:
    """The one value that is not None, or a tuple of all that are not None; None if there is none."""
    given = [value for value in values if value is not None]
    return tuple(given) if len(given) > 1 else given[0] if given else None


def _identity(function: Any) -> tuple[str, str] | int:
    name = getattr(function, "__qualname__", None)
    if name is None or "<" in name:
        return id(function)
    return str(getattr(function, "__module__", "")), name


def _check(function: Any) -> None:
    where = f"lifespan {brief(getattr(function, '__qualname__', function))}"
    if not callable(function):
        asked = "give the function itself, not what it returns" if hasattr(function, "__aenter__") else _EXAMPLE
        raise ConfigError(f"{where}: expected a function, got {brief(function)}; {asked}")
    where = f"{where} ({whereabouts(inspect.unwrap(function))})"
    if inspect.isclass(function):
        if not hasattr(function, "__aenter__"):
            raise ConfigError(f"{where}: the class is no async context manager (it has no __aenter__); {_EXAMPLE}")
    elif inspect.iscoroutinefunction(function):
        raise ConfigError(f"{where}: it has no yield; {_EXAMPLE}: the code before it runs before the first job")
    elif _is_plain_generator(function):
        raise ConfigError(f"{where}: a plain generator (or @contextmanager) cannot be a lifespan; {_EXAMPLE}")
    _check_parameters(where, function)


def _check_parameters(where: str, function: Any) -> None:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ConfigError(
            f"{where}: it is called without arguments ({error}); refer to the App by its name in the module"
        ) from None
    except ValueError:  # a builtin without a signature
        return


def _is_async_generator(function: Any) -> bool:
    return inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(_call_of(function))


def _is_plain_generator(function: Any) -> bool:
    return any(inspect.isgeneratorfunction(each) for each in (inspect.unwrap(function), _call_of(function)))


def _call_of(function: Any) -> Any:
    """The `__call__` of an object that is no function."""
    return None if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
