"""A server's URL: which ones can be used, and how one is shown without its password."""

import re
from urllib.parse import urlsplit

SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}
"""What a URL may start with, and what the client library is given instead."""

# Patterns stay strings: compiled at the first use, they cost an import nothing.
_PLACE = r"((\[[0-9A-Fa-f:.]*\]|[\w.-]+)(:[0-9]*)?(/[0-9]*)?|(/.*)?)\s*"
_OPEN_OPTION = r"(client_name|db|protocol|socket_\w+|ssl_ca_certs|ssl_cert_reqs)=[\w./-]*"


def mask_url(url: str) -> str:
    """Return `url` with everything that is or may be a password replaced by `***`, for logs; never raises.

    People paste passwords unencoded (`redis://:a@b/c?d@host`), or leave the host or the scheme out. So this
    does not look for the password where a good URL has it, but shows what it is sure of (scheme, host, port,
    database, harmless options) and masks the rest.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or not scheme.isalnum():
        scheme, mark, rest = "", "", url
    head, question, query = rest.partition("?")
    if "@" in query:  # the query's @, or a ? in the password
        return f"{scheme}{mark}***"
    _, at, host = head.rpartition("@")
    place = host if re.fullmatch(_PLACE, host) else "***"
    return f"{scheme}{mark}{'***@' if at else ''}{place}{question}{_mask_query(query)}"


def _mask_query(query: str) -> str:
    # What is no known option may be the rest of a password with a raw "&" in it.
    secret = {"password": "password=***", "username": "username=***", "": ""}
    return "&".join(
        option if re.fullmatch(_OPEN_OPTION, option) else secret.get(option.partition("=")[0], "***")
        for option in query.split("&")
    )


def check_url(value: object) -> str | None:
    """Refuse also what would fail, or mean something else, deep in the client library."""
    if not isinstance(value, str) or not value.isprintable():  # a line break at the end of a secret's file
        return None
    scheme, _, rest = value.partition("://")
    url = f"{SCHEMES.get(scheme.lower())}://{rest}"
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is no number
    except ValueError:
        return None
    if parts.scheme == "unix" and (parts.netloc.rpartition("@")[2] or not parts.path):
        return None  # unix://tmp/x.sock would open /x.sock
    return url if scheme.lower() in SCHEMES else None
