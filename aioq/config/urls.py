"""A server's URL: which ones can be used, and how one is shown without its password."""

import re
from collections import Counter
from collections.abc import Sequence
from urllib.parse import SplitResult, parse_qsl, urlsplit

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
        _ = parts.hostname or parts.port  # raises if it is no number; `objection` reports an error in the host
    except ValueError:
        return None
    if parts.scheme == "unix" and (parts.netloc.rpartition("@")[2] or not parts.path):
        return None  # unix://tmp/x.sock would open /x.sock
    return url if scheme.lower() in SCHEMES else None


# The options of a URL, with what their values look like. The client library takes many more and hands them on to
# its connections. They are refused, because most change what aioq relies on: replies would be decoded
# (`decode_responses`, `encoding`), have another form (`protocol`), or time out under a read that blocks on purpose
# and under a renewal of a lease (`socket_timeout`, `socket_connect_timeout`); a command that may have been carried
# out would be sent again (`retry_on_timeout`). Others do nothing here (`max_connections`: the pool is aioq's own).
_NUMBER = ("[0-9]{1,9}", "a number")
_TRUTH = ("(?i)1|0|t(rue)?|f(alse)?|y(es)?|no?", "true or false")
_TEXT = ("(?s).+", "a text")
_ANYWHERE = {
    "client_name": ("[!-~]+", "without blanks"),
    "db": _NUMBER,
    "password": ("(?s).*", ""),
    "username": ("(?s).*", ""),
}
_TCP = {**_ANYWHERE, "socket_keepalive": _TRUTH}
_TLS = {
    **_TCP,
    "ssl_ca_certs": _TEXT,
    "ssl_ca_data": _TEXT,
    "ssl_ca_path": _TEXT,
    "ssl_cert_reqs": ("none|optional|required", "none, optional or required"),
    "ssl_certfile": _TEXT,
    "ssl_check_hostname": _TRUTH,
    "ssl_ciphers": _TEXT,
    "ssl_exclude_verify_flags": _TEXT,
    "ssl_include_verify_flags": _TEXT,
    "ssl_keyfile": _TEXT,
    "ssl_min_version": _NUMBER,
    "ssl_password": _TEXT,
}
_OPTIONS = {"unix": _ANYWHERE, "redis": _TCP, "rediss": _TLS}


def objection(url: str) -> str | None:
    """What is wrong with the port, the database or an option of a URL that `check_url` has returned, or None."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    wrong = _wrong_port(parts) or _wrong_database(parts) or _wrong_option(url, parts.scheme, options)
    wrong = wrong or _twice(options)
    return wrong and f"{mask_url(url)} {wrong}"


def _wrong_port(parts: SplitResult) -> str | None:
    if not parts.hostname:
        return None
    try:
        wrong = parts.port == 0  # the client library would take the usual one
    except ValueError:
        wrong = True
    return "cannot be used: its port must be a number from 1 to 65535" if wrong else None


def _wrong_database(parts: SplitResult) -> str | None:
    # The client library would take database 0.
    wrong = parts.scheme != "unix" and not re.fullmatch("/?[0-9]*", parts.path)
    return "cannot be used: its database must be a number" if wrong else None


def _wrong_option(url: str, scheme: str, options: Sequence[tuple[str, str]]) -> str | None:
    for name, value in options:
        pattern, expected = _OPTIONS[scheme].get(name, (None, ""))
        if pattern is None:
            return _not_taken(name, url, scheme)
        if not re.fullmatch(pattern, value):
            return f"cannot be used: its option {name!r} must be {expected}"
    return None


def _twice(options: Sequence[tuple[str, str]]) -> str | None:
    repeated = [name for name, times in Counter(name for name, _ in options).items() if times > 1]
    return f"cannot be used: it has the option {repeated[0]!r} twice" if repeated else None


def _not_taken(name: str, url: str, scheme: str) -> str:
    elsewhere = [f"{other}://" for other, options in _OPTIONS.items() if name in options]
    if elsewhere:
        return f"has the option {name!r}, which only a {' or '.join(elsewhere)} URL takes"
    takes = f"it takes {', '.join(sorted(_OPTIONS[scheme]))}"
    query = url.partition("?")[2]
    if "password=" in query or "@" in query or "=" not in query:
        encoded = "if it is a piece of a password, write that percent-encoded (& as %26, ? as %3F)"
        return f"has an option that aioq does not take; {takes}; {encoded}"
    return f"has the option {name!r}, which aioq does not take; {takes}"
