"""How aioq's commands are called at one server: as functions of a library or, if it has no functions, as scripts.

    as a function   FUNCTION LOAD with the library, once, and FCALL
    as a script     EVAL with the text until the server is known to have it, then EVALSHA

Functions are tried first. If the server has none (Redis 6.2, a proxy), or the user may not call them, scripts are
used from then on, until the process ends. If the server has lost the library or a script (a restart without its
data, FUNCTION FLUSH, SCRIPT FLUSH, a failover to a server that never had it), it is loaded again and the call is
repeated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from redis.exceptions import NoScriptError, ResponseError

from aioq.errors import ServerUnavailableError
from aioq.store.redis.errors import granted_by, translate
from aioq.store.redis.keys import never_key
from aioq.store.redis.scripts import library, script

Arg = str | bytes | int
"""The name or an argument of a command."""

MOST_TRIES = 3
"""How often a call is made that the server does not know: as a function, with the library loaded, as a script."""


class Calls:
    """The state of aioq's functions and scripts at one server.

    Attributes:
        functions: the name of each command's function; empty if commands are called as scripts.
        known: the hashes of the scripts that the server has.
        is_missing: whether the server has answered that it does not have the library.
        refusal: the error with which it refused the library, if that may be temporary.
    """

    __slots__ = ("_sharded", "functions", "is_missing", "known", "refusal")

    def __init__(self, *, sharded: bool = False) -> None:
        self._sharded = sharded
        self.functions: Mapping[str, str] = library(sharded=sharded).functions
        self.known: set[str] = set()
        self.is_missing = False
        self.refusal: ResponseError | None = None

    def command(self, name: str, args: Sequence[Arg]) -> Sequence[Arg]:
        """The server command that calls one of aioq's commands; `args` begin with the queue's base key."""
        if self.functions:
            return ("FCALL", self.functions[name], 1, *args)
        code = script(name, sharded=self._sharded)
        if code.sha in self.known:
            return ("EVALSHA", code.sha, 1, *args)
        return ("EVAL", code.text, 1, *args)

    def answered(self, name: str) -> None:
        """Note that the command was carried out, so the server has its script."""
        if not self.functions:
            self.known.add(script(name, sharded=self._sharded).sha)

    def forget(self) -> None:
        """Forget what the server is known to have: it may be another server, or have been restarted."""
        self.is_missing, self.refusal = False, None
        self.known.clear()

    @property
    def probe(self) -> Sequence[Arg] | None:
        """A call that only shows whether the server has the library; None if commands are called as scripts."""
        return ("FCALL", self.functions["info"], 0) if self.functions else None

    @property
    def load(self) -> Sequence[Arg] | None:
        """The server command that must be sent before the next call; None for none."""
        if self.functions and self.is_missing:
            return ("FUNCTION", "LOAD", library(sharded=self._sharded).text)
        return None

    @property
    def is_refused(self) -> bool:
        """Whether the server has refused the library the last time it was sent."""
        return bool(self.functions) and self.refusal is not None

    def library_answered(self, reply: object) -> None:
        """Handle the reply to `load`."""
        if not isinstance(reply, Exception) or "already exists" in str(reply):
            self.is_missing, self.refusal = False, None
        elif isinstance(reply, ResponseError):
            fault = translate(reply, "")
            if isinstance(fault, ServerUnavailableError):
                self.refusal = reply  # temporary
            else:
                self.functions = {}

    def reason_for(self, error: Exception) -> Exception:
        """The cause of a failed call: if the server had refused the missing library, the error of that refusal."""
        return self.refusal if self.refusal is not None and "Function not found" in str(error) else error

    def should_repeat(self, error: object) -> bool:
        """Whether a call that failed with this error is to be repeated, after sending `load` if that is not None.

        The error is also noted, so that the repeated call is made in another way.
        """
        if isinstance(error, NoScriptError):
            self.known.clear()  # the server has lost all scripts
            return True
        if not isinstance(error, ResponseError):
            return False
        text = str(error)
        if "Function not found" in text:
            self.is_missing = True
            return True
        if _is_unknown(text):
            self.functions = {}
            return True
        return False


class ClusterCalls(Calls):
    """The same for a node of a cluster, where each call names a second key of its slot; see `never_key`."""

    __slots__ = ()

    def command(self, name: str, args: Sequence[Arg]) -> Sequence[Arg]:
        """The server command that calls one of aioq's commands; `args` begin with the queue's base key."""
        how, code, _, base, *rest = super().command(name, args)
        return (how, code, 2, base, never_key(str(base)), *rest)


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One node of a cluster, for the store that talks to it.

    Attributes:
        no_key: a key, and a channel, that never exists, in a slot that the node serves.
        sharded: whether messages go over sharded pub/sub (servers from 7.0 on).
        on_moved: called with a channel that the node serves no more.
    """

    no_key: str
    sharded: bool
    on_moved: Callable[[str], None]


def calls_for(node: ClusterNode | None) -> Calls:
    """How commands are called at a server, or at a node of a cluster."""
    return Calls() if node is None else ClusterCalls(sharded=node.sharded)


_NOT_SERVED = (
    "unknown command",
    "unsupported command",  # older versions of Envoy
    "command is not available",  # Upstash
    "not supported",
    "not allowed",
    "disabled",
)
"""Texts in the errors of servers and proxies for a command that they do not serve."""


def _is_unknown(text: str) -> bool:
    """Whether FCALL itself is refused: the server does not have it, or the user may not call it."""
    said = text.lower()
    return "fcall" in said and (any(words in said for words in _NOT_SERVED) or granted_by(text) == "+fcall")
