"""The worker's handlers of SIGTERM and SIGINT, which stop it; no task can replace them.

A task, or a library that it imports, may set a handler of its own for one of these signals. Then both are called:
the worker stops, and a warning names the other handler. To set SIG_IGN or SIG_DFL has no effect; SIG_DFL would end
the process at once.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Generator
from typing import Any

from aioq.util.log import logger

log = logger("aioq.worker")

SIGNALS = (signal.SIGTERM, signal.SIGINT)

CHECK_EVERY = 0.25
"""Seconds between two checks of the handlers, because C code can set one without Python's `signal.signal`."""

_NO_CODE = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None)
"""Handlers that are not a user's code."""


class StopSignals:
    """Handles the signals for one event loop, in the main thread.

    Args:
        loop: the loop.
        stop: called on the loop for each signal.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        self._loop = loop
        self._stop = stop
        self._pid = os.getpid()
        self._installing = False
        self._own = self._signalled  # kept, because each access to a bound method makes a new object
        self._add, self._remove, self._signal = loop.add_signal_handler, loop.remove_signal_handler, signal.signal
        self._handlers: dict[int, Any] = {}
        self._callbacks: dict[int, Callable[[], Any]] = {}
        self._warned: set[tuple[int, str]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def kept(self) -> Generator[None]:
        """Keep the handlers in place within this context. At its end they stay, but may be replaced."""
        loop: Any = self._loop
        for number in SIGNALS:
            self._install(number)
        # `signal.signal` itself is replaced too: between a SIG_IGN and the next check a signal would be lost.
        signal.signal = self._set_handler  # pyright: ignore[reportAttributeAccessIssue] - a stand-in
        loop.add_signal_handler, loop.remove_signal_handler = self._set_callback, self._remove_callback
        self._timer = loop.call_later(CHECK_EVERY, self._check)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            signal.signal = self._signal
            del loop.add_signal_handler, loop.remove_signal_handler

    def _install(self, number: int) -> None:
        # The loop's handler is set for its wakeup descriptor: a loop written in C learns of a signal only by that.
        self._installing = True  # because such a loop calls `signal.signal` too
        self._add(number, self._woken, number)
        self._signal(number, self._own)
        self._installing = False

    def _signalled(self, number: int, _frame: object) -> None:
        if os.getpid() != self._pid:  # in a fork of this process, whose signals must not stop the worker
            self._signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._loop.call_soon_threadsafe(self._answer, number)

    def _woken(self, number: int) -> None:
        if signal.getsignal(number) is not self._own:  # otherwise `_signalled` has been called already
            self._answer(number, replaced=True)

    def _answer(self, number: int, *, replaced: bool = False) -> None:
        self._stop()
        handler, callback = self._handlers.get(number), self._callbacks.get(number)
        if handler is not None and not replaced:
            self._call(number, lambda: handler(number, None))
        if callback is not None:
            self._call(number, callback)

    @staticmethod
    def _call(number: int, function: Callable[[], Any]) -> None:
        try:
            function()
        except BaseException:  # it may want to end the process, which is stopping gracefully already
            log.warning("a handler of %s has raised; the worker stops", signal.Signals(number).name, exc_info=True)

    def _set_handler(self, number: int, handler: Any, /) -> Any:
        if number not in SIGNALS or self._installing or os.getpid() != self._pid:
            return self._signal(number, handler)
        before = self._handlers.get(number, self._own)
        self._keep(number, handler)
        return before

    def _keep(self, number: int, handler: Any) -> None:
        """Remember another handler of a signal, to call it beside the worker's own."""
        self._handlers.pop(number, None)
        if handler is self._own:
            return
        if handler not in _NO_CODE:
            self._handlers[number] = handler
        self._warn(number, handler)

    def _set_callback(self, number: int, callback: Callable[..., Any], *args: Any) -> None:
        if number not in SIGNALS:
            self._add(number, callback, *args)
            return
        self._callbacks[number] = lambda: callback(*args)
        self._warn(number, callback)

    def _remove_callback(self, number: int) -> bool:
        if number not in SIGNALS:
            return self._remove(number)
        return self._callbacks.pop(number, None) is not None

    def _check(self) -> None:
        for number in SIGNALS:
            present = signal.getsignal(number)
            if present is not self._own:
                self._keep(number, present)
                self._install(number)
        self._timer = self._loop.call_later(CHECK_EVERY, self._check)

    def _warn(self, number: int, handler: Any) -> None:
        name = getattr(handler, "name", None) or getattr(handler, "__qualname__", None) or repr(handler)
        if module := getattr(handler, "__module__", None):
            name = f"{module}.{name}" if module != "signal" else name
        if (number, name) in self._warned:
            return
        self._warned.add((number, name))
        also = "has no effect" if handler in _NO_CODE else "is called beside the worker's own"
        log.warning(
            "%s: a handler was set in this worker by a task or an import (%s); it %s: the signal stops the worker",
            *(signal.Signals(number).name, name, also),
        )
