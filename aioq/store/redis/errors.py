"""Translates Redis errors into aioq's: those that may go away by themselves, and those that do not.

aioq's errors are raised `from None`: they say all that the original error says, whose traceback would add forty
lines of redis-py and asyncio. A debugger finds the original in `__context__`.
"""

import re
from collections.abc import Callable

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
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

_TEMPORARY = (
    "BUSY ",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "MISCONF",
    "UNBLOCKED",
    "Function not found",  # the library was loaded several times, and lost each time
)
"""Codes in the errors of a server that will recover. Redis 6.2 wraps the error of a script in another text, so the
code is searched for anywhere in it."""


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
"""Codes in the errors of a server that serves no clients now, and perhaps never again: a demoted primary, or one
that is cut off from its replicas or its cluster, cannot write to its disk, or is loading its data."""


def may_be_replaced(error: Exception) -> bool:
    """Whether the error shows that another server may have replaced this one; only a new connection finds that."""
    # redis-py's own parser removes the code from the text, and raises a class for it.
    if isinstance(error, (ReadOnlyError, BusyLoadingError, ClusterDownError, MovedError)):
        return True
    return isinstance(error, ResponseError) and any(code in str(error) for code in _REPLACED)


class SlotUnservedError(ServerUnavailableError):
    """This node of a cluster does not serve the slot, or not now; nothing was carried out.

    Attributes:
        moved_to: slot and address of the node that serves it from now on, with an empty host if the server names
            none; None if that is not known.
    """

    moved_to: tuple[int, str, int] | None = None


_UNSERVED = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN")


def is_of_a_slot(error: Exception) -> bool:
    """Whether a cluster's node answers so for a slot that it does not serve, or not now."""
    # redis-py's own parser removes the code from the text, and raises a class for it.
    if isinstance(error, (MovedError, AskError, TryAgainError, ClusterDownError)):
        return not isinstance(error, MasterDownError)  # which redis-py derives from ClusterDownError
    return isinstance(error, ResponseError) and any(code in str(error) for code in _UNSERVED)


_CODES: dict[type[Exception], str] = {
    MovedError: "MOVED",
    AskError: "ASK",
    TryAgainError: "TRYAGAIN",
    ClusterDownError: "CLUSTERDOWN",
}


def slot_unserved(error: Exception, url: str) -> SlotUnservedError:
    """The error for such an answer; `url` is the masked one."""
    code = _CODES.get(type(error))
    text = str(error) if code is None else f"{code} {error}"
    fault = SlotUnservedError(f"{url} does not serve this queue, or not now: {text}")
    found = re.search(r"MOVED (\d+) (\S*):(\d+)", text)
    if found is not None:
        # "?" is a node without a hostname where hostnames are preferred.
        fault.moved_to = int(found[1]), found[2].replace("?", ""), int(found[3])
    return fault


def closed_here(shown_url: str) -> ServerUnavailableError:
    """The error for a call after the store was closed."""
    return ServerUnavailableError(f"the connection to {shown_url} was closed by this process")


def _login_refused(text: str) -> ServerRejectedError:
    error = ServerRejectedError(text)
    error.is_login = True
    return error


_NO_DATABASE = "has no such database ({}); name another one, or none, in the URL"

_Rule = tuple[tuple[type[Exception], ...], str, Callable[[str], ServerError], str]

_RULES: tuple[_Rule, ...] = (
    (
        (AuthenticationError, AuthorizationError),
        "NOAUTH",
        _login_refused,
        "refused the login: {}; check user name and password in the URL",
    ),
    # The error for a command with many arguments before the login.
    ((), "unauthenticated", _login_refused, "wants a login: {}; put user name and password into the URL"),
    # First the text of a cluster that has database 0 alone, as all but those of Valkey 9.
    ((), "SELECT is not allowed in cluster mode", ServerRejectedError, _NO_DATABASE),
    ((), "DB index is out of range", ServerRejectedError, _NO_DATABASE),
    (
        (ReadOnlyError,),
        "READONLY",
        ServerUnavailableError,
        "is a read-only replica; aioq needs the primary ({})",
    ),
    # The error of WAIT and WAITAOF if the server was demoted just after the write.
    (
        (),
        "cannot be used with replica",
        ServerUnavailableError,
        "is a read-only replica; aioq needs the primary ({})",
    ),
    ((ClusterDownError, TryAgainError), "MASTERDOWN", ServerUnavailableError, "is not ready: {}"),
    ((NoPermissionError,), "NOPERM", ServerRejectedError, "refused a command to this user: {}"),
    # Refused within a script: first the text of Redis 6.2 and 7.0, then that of later versions and Valkey.
    ((), "executing the script can't", ServerRejectedError, "refused a command to this user: {}"),
    ((), "ACL failure in script", ServerRejectedError, "refused a command to this user: {}"),
    ((), "WAITAOF", ServerRejectedError, 'cannot tell when data is on its disk (durability="fsync"): {}'),
    ((OutOfMemoryError,), "OOM ", ServerUnavailableError, "is out of memory: {}"),
    ((BusyLoadingError,), "LOADING", ServerUnavailableError, "is still loading its data: {}"),
    ((RedisConnectionError, RedisTimeoutError, OSError), "", ServerUnavailableError, "cannot be reached: {}"),
)
"""Exception classes, a code that may be in the text instead, aioq's error and its text. The first match counts."""


_COMMAND = re.compile(r"run the '([^']+)' command")


def granted_by(text: str) -> str:
    """The ACL rule that would permit what an error says is not permitted; empty for another error.

    Args:
        text: the server's message, which differs between versions.
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
    """The error's text, followed by how to give the user the missing permission."""
    grant = granted_by(text)
    if not grant and "script" in text:
        grant = "'~aioq:*'" if "key" in text else "what its rules leave out"
    return f"{text}; grant the user {grant} with ACL SETUSER (all rules: docs/worker.md)" if grant else text


def _describe(error: Exception, url: str) -> str:
    """A text for an error that has none of its own."""
    if not isinstance(error, TimeoutError):
        return type(error).__name__
    # A server without TLS takes the handshake for an incomplete command: it waits for the rest, and never answers.
    # `url` may be that of a node, where the configured one begins with rediss+cluster.
    if not url.startswith("rediss"):
        return "it does not answer"
    return "it does not answer; does it speak TLS? if not, its URL begins with redis instead of rediss"


def translate(error: Exception, url: str) -> ServerError:
    """The aioq error for an exception of redis-py or the socket; `url` is the masked one."""
    if isinstance(error.__cause__, RedisError):
        error = error.__cause__  # the asyncio part of redis-py wraps the error of a login
    if is_of_a_slot(error):
        return slot_unserved(error, url)
    # redis-py names the host, which may be a part of the password if the URL is malformed; aioq names the URL
    # anyway.
    text = re.sub(r" connecting to \S+", " connecting.", str(error)) or _describe(error, url)
    for kinds, code, make, words in _RULES:
        if isinstance(error, kinds) or (code and code in text):
            text = _advice(text) if "to this user" in words else text
            return make(f"{url} {words.format(text)}")
    if isinstance(error, ResponseError) and any(code in text for code in _TEMPORARY):
        return ServerUnavailableError(f"{url} is not ready: {text}")
    return ServerError(f"{url} answered with an error: {text}")


CLIENT_ERRORS = (RedisError, OSError)
"""The exceptions that redis-py and the socket raise."""
