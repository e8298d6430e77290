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
    """All that were registered, in their order.

    Attributes:
        state: what they yielded, while they are entered; see `together`.
    """

    def __init__(self) -> None:
        self._every: dict[tuple[str, str] | int, Lifespan] = {}
        self.state: Any = None

    def add(self, function: Any) -> Lifespan:
        """Register one; a function of the same module and name takes the place of the one before it.

        Raises:
            ConfigError: it is none, saying what would be.
        """
        _check(function)
        ready = function
        if _is_async_generator(function):
            ready = asynccontextmanager(function)
        self._every[_identity(function)] = ready
        return cast("Lifespan", ready)

    @asynccontextmanager
    async def entered(self) -> AsyncGenerator[Any]:
        """All of them, entered in the order of their registration and left in reverse; with their value."""
        values: list[Any] = []
        async with AsyncExitStack() as stack:
            stack.callback(self._forget)
            for lifespan in tuple(self._every.values()):
                values.append(await stack.enter_async_context(lifespan()))
                self.state = together(values)  # those behind it may use it
            yield self.state

    def _forget(self) -> None:
        self.state = None


def together(values: list[Any]) -> Any:
    """The value of all lifespans: of those that are not None the only one, or a tuple of several."""
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
        raise ConfigError(f"{where}: it has no yield; {_EXAMPLE}: what is before it runs before the first job")
    elif _is_plain_generator(function):
        raise ConfigError(f"{where}: a plain generator (or @contextmanager) cannot be one; {_EXAMPLE}")
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
