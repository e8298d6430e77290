"""Redis errors, put in aioq's terms: what heals by waiting, and what does not."""

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError

_HEALING = (
    "LOADING",
    "BUSY ",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "MISCONF",
    "UNBLOCKED",
    "OOM ",
)
"""What answers of a server that will be well again contain. Redis 6.2 wraps an error that a script met, so the
code is looked for anywhere in the text."""


def translate(error: Exception, url: str) -> ServerError:
    """The aioq error for what redis-py or the socket raised; `url` is the masked one."""
    text = str(error) or type(error).__name__
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return ServerRejectedError(f"{url} refused the login: {text}; check user name and password in the URL")
    if isinstance(error, ReadOnlyError) or "READONLY" in text:
        return ServerUnavailableError(f"{url} is a read-only replica; aioq needs the primary")
    if isinstance(error, NoPermissionError) or "NOPERM" in text:
        return ServerRejectedError(f"{url} refused a command to this user: {text}")
    if isinstance(error, OutOfMemoryError) or "OOM " in text:
        return ServerUnavailableError(f"{url} is out of memory: {text}")
    if isinstance(error, BusyLoadingError):
        return ServerUnavailableError(f"{url} is still loading its data")
    if isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError)):
        return ServerUnavailableError(f"cannot reach {url}: {text}")
    if isinstance(error, ResponseError) and any(code in text for code in _HEALING):
        return ServerUnavailableError(f"{url} is not ready: {text}")
    return ServerError(f"{url} answered with an error: {text}")


FOREIGN = (RedisError, OSError)
"""What redis-py lets through."""
