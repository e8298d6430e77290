"""Redis errors, put in aioq's terms: what heals by waiting, and what does not.

They are raised `from None`: aioq's error says all that the other does, whose traceback is forty lines of redis-py
and asyncio in front of it. A debugger finds the other in `__context__`.
"""

import re
from collections.abc import Callable

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError

_HEALING = (
    "BUSY ",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "MISCONF",
    "UNBLOCKED",
    "Function not found",  # loaded again and again, and forgotten each time
)
"""What answers of a server that will be well again contain. Redis 6.2 wraps an error that a script met, so the
code is looked for anywhere in the text."""


_REPLACED = (
    "READONLY",
    "MASTERDOWN",
    "LOADING",
    "NOREPLICAS",
    "CLUSTERDOWN",
    "MISCONF",
    "MOVED",
    "cannot be used with replica instances",
)
"""What answers of a server contain that serves no client for now, or no more: a demoted primary, one that is cut
off from its replicas or its cluster, that cannot write to its disk, that loads what another one has."""


def may_be_replaced(error: Exception) -> bool:
    """Whether a server that answers so may have another in its place, which only a new connection finds."""
    # redis-py's own parser takes the code away, and says it with the class.
    if isinstance(error, (ReadOnlyError, BusyLoadingError, ClusterDownError, MovedError)):
        return True
    return isinstance(error, ResponseError) and any(code in str(error) for code in _REPLACED)


def closed_here(shown_url: str) -> ServerUnavailableError:
    """The error for what is asked of a store that is closed."""
    return ServerUnavailableError(f"the connection to {shown_url} was closed by this process")


def _login_refused(text: str) -> ServerRejectedError:
    error = ServerRejectedError(text)
    error.is_login = True
    return error


_Rule = tuple[tuple[type[Exception], ...], str, Callable[[str], ServerError], str]

_RULES: tuple[_Rule, ...] = (
    (
        (AuthenticationError, AuthorizationError),
        "NOAUTH",
        _login_refused,
        "refused the login: {}; check user name and password in the URL",
    ),
    # What a server says to a command of many words before the login.
    ((), "unauthenticated", _login_refused, "wants a login: {}; put user name and password into the URL"),
    (
        (ReadOnlyError,),
        "READONLY",
        ServerUnavailableError,
        "is a read-only replica; aioq needs the primary ({})",
    ),
    # What WAIT and WAITAOF say after a write that came just before the server was demoted.
    (
        (),
        "cannot be used with replica",
        ServerUnavailableError,
        "is a read-only replica; aioq needs the primary ({})",
    ),
    ((ClusterDownError, TryAgainError), "MASTERDOWN", ServerUnavailableError, "is not ready: {}"),
    ((NoPermissionError,), "NOPERM", ServerRejectedError, "refused a command to this user: {}"),
    # Refused within a script: as Redis 6.2 and 7.0 say it, and as later ones and Valkey do.
    ((), "executing the script can't", ServerRejectedError, "refused a command to this user: {}"),
    ((), "ACL failure in script", ServerRejectedError, "refused a command to this user: {}"),
    ((), "WAITAOF", ServerRejectedError, 'cannot tell when data is on its disk (durability="fsync"): {}'),
    ((OutOfMemoryError,), "OOM ", ServerUnavailableError, "is out of memory: {}"),
    ((BusyLoadingError,), "LOADING", ServerUnavailableError, "is still loading its data: {}"),
    ((RedisConnectionError, RedisTimeoutError, OSError), "", ServerUnavailableError, "cannot be reached: {}"),
)
"""Exception classes, a code that the text may have instead, and what it means; the first that fits counts."""


_COMMAND = re.compile(r"run the '([^']+)' command")


def granted_by(text: str) -> str:
    """The ACL rule that grants what an answer refuses; empty where it refuses something else.

    Args:
        text: the server's words, which differ from version to version.
    """
    if "NOPERM" not in text and "permission" not in text:
        return ""
    command = _COMMAND.search(text)
    if command is not None:
        return f"+{command[1].lower()}"
    if "channel" in text:
        return "'&aioq:*'"
    return "'~aioq:*'" if "key" in text else ""


def _advice(text: str) -> str:
    """What to do about a permission that is missing."""
    grant = granted_by(text)
    if not grant and "script" in text:
        grant = "'~aioq:*'" if "key" in text else "what its rules leave out"
    return f"{text}; grant the user {grant} with ACL SETUSER (all rules: docs/worker.md)" if grant else text


def _in_words(error: Exception, url: str) -> str:
    """What an error says that has no text of its own."""
    if not isinstance(error, TimeoutError):
        return type(error).__name__
    # A server without TLS waits for more of what it takes for a command, and says nothing.
    tls = "; does it speak TLS? if not, its URL begins with redis://" if url.startswith("rediss:") else ""
    return f"it does not answer{tls}"


def translate(error: Exception, url: str) -> ServerError:
    """The aioq error for what redis-py or the socket raised; `url` is the masked one."""
    if isinstance(error.__cause__, RedisError):
        error = error.__cause__  # redis-py's asyncio side wraps what a connection's login met
    # redis-py names the host, which for a badly written URL may be a part of the password; the URL says it anyway.
    text = re.sub(r" connecting to \S+", " connecting.", str(error)) or _in_words(error, url)
    for kinds, code, make, words in _RULES:
        if isinstance(error, kinds) or (code and code in text):
            text = _advice(text) if "to this user" in words else text
            return make(f"{url} {words.format(text)}")
    if isinstance(error, ResponseError) and any(code in text for code in _HEALING):
        return ServerUnavailableError(f"{url} is not ready: {text}")
    return ServerError(f"{url} answered with an error: {text}")


CLIENT_ERRORS = (RedisError, OSError)
"""What redis-py lets through."""
