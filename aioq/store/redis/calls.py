"""How a command is called at one server: as a function of the library, or as a script where it has no functions.

    as a function   FUNCTION LOAD with the library, once, and FCALL
    as a script     EVAL with the text until the server is known to have it, then EVALSHA

Functions are tried first. A server that has none (Redis 6.2, a proxy), or a user who may not call them, is asked
for scripts from then on, for as long as the process lives. What a server forgets (a restart without its data,
FUNCTION FLUSH, SCRIPT FLUSH, a failover to one that never had it) they are loaded again, and the call is made once
more.
"""

from collections.abc import Mapping, Sequence

from redis.exceptions import NoScriptError, ResponseError

from aioq.errors import ServerUnavailableError
from aioq.store.redis.errors import granted_by, translate
from aioq.store.redis.scripts import library, script

Arg = str | bytes | int
"""What a command is made of."""

MOST_TRIES = 3
"""How often a call is made that the server does not know: as a function, with the library again, as a script."""


class Calls:
    """What is known of one server.

    Attributes:
        functions: the name of each command's function; none where commands are called as scripts.
        known: the hashes of the scripts that it has.
        is_missing: whether it has said that it has not the library.
        refusal: why it did not take the library, for now.
    """

    __slots__ = ("functions", "is_missing", "known", "refusal")

    def __init__(self) -> None:
        self.functions: Mapping[str, str] = library().functions
        self.known: set[str] = set()
        self.is_missing = False
        self.refusal: ResponseError | None = None

    def command(self, name: str, args: Sequence[Arg]) -> Sequence[Arg]:
        """What is to be sent now to call a command; `args` begin with the queue's base key."""
        if self.functions:
            return ("FCALL", self.functions[name], 1, *args)
        code = script(name)
        if code.sha in self.known:
            return ("EVALSHA", code.sha, 1, *args)
        return ("EVAL", code.text, 1, *args)

    def answered(self, name: str) -> None:
        """The command was carried out."""
        if not self.functions:
            self.known.add(script(name).sha)

    def forget(self) -> None:
        """Forget what the server is known to have: it may be another one, or have been restarted."""
        self.is_missing, self.refusal = False, None
        self.known.clear()

    @property
    def probe(self) -> Sequence[Arg] | None:
        """A call that only tells whether the server has the library; None where that does not matter."""
        return ("FCALL", self.functions["info"], 0) if self.functions else None

    @property
    def load(self) -> Sequence[Arg] | None:
        """What has to be sent before the next call; None for nothing."""
        return ("FUNCTION", "LOAD", library().text) if self.functions and self.is_missing else None

    @property
    def is_refused(self) -> bool:
        """Whether the server would not take the library the last time."""
        return bool(self.functions) and self.refusal is not None

    def library_answered(self, reply: object) -> None:
        """What was answered to `load`."""
        if not isinstance(reply, Exception) or "already exists" in str(reply):
            self.is_missing, self.refusal = False, None
        elif isinstance(reply, ResponseError):
            fault = translate(reply, "")
            if isinstance(fault, ServerUnavailableError):
                self.refusal = reply  # it will be well again
            else:
                self.functions = {}

    def reason_for(self, error: Exception) -> Exception:
        """Why a call failed: where that is because the library was refused, why it was."""
        return self.refusal if self.refusal is not None and "Function not found" in str(error) else error

    def should_repeat(self, error: object) -> bool:
        """Whether a call that was answered so is to be made again, after `load` if there is one then."""
        if isinstance(error, NoScriptError):
            self.known.clear()  # it has forgotten all of them
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


_NOT_SERVED = (
    "unknown command",
    "unsupported command",  # Envoy, before it said it as Redis does
    "command is not available",  # Upstash
    "not supported",
    "not allowed",
    "disabled",
)
"""What servers and proxies say of a command that they do not serve."""


def _is_unknown(text: str) -> bool:
    """Whether FCALL itself is refused, which is no command of this server, or not for this user."""
    said = text.lower()
    return "fcall" in said and (any(words in said for words in _NOT_SERVED) or granted_by(text) == "+fcall")
