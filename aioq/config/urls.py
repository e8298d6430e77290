"""Server URLs: the checks of a URL, and its form without the password."""

import re
from collections import Counter
from collections.abc import Sequence
from urllib.parse import SplitResult, parse_qsl, urlsplit

SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}
"""The schemes that a URL may have, and the scheme that the client library gets for each."""

# Patterns stay strings, which are compiled at the first use, so that an import takes no time for them.
_PLACE = r"((\[[0-9A-Fa-f:.]*\]|[\w.-]+)(:[0-9]*)?(/[0-9]*)?|(/.*)?)\s*"
_OPEN_OPTION = r"(client_name|db|protocol|socket_\w+|ssl_ca_certs|ssl_cert_reqs)=[\w./-]*"


def mask_url(url: str) -> str:
    """Return `url` with everything that is or may be a password replaced by `***`, for logs; never raises.

    People paste passwords without encoding them (`redis://:a@b/c?d@host`), or leave out the host or the scheme.
    So this function does not look for the password in its usual place. It shows only parts that are certainly
    harmless (scheme, host, port, database, some options) and masks the rest.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or not scheme.isalnum():
        scheme, mark, rest = "", "", url
    head, question, query = rest.partition("?")
    if "@" in query:  # either an @ in the query, or a ? in the password
        return f"{scheme}{mark}***"
    _, at, host = head.rpartition("@")
    place = host if re.fullmatch(_PLACE, host) else "***"
    return f"{scheme}{mark}{'***@' if at else ''}{place}{question}{_mask_query(query)}"


def _mask_query(query: str) -> str:
    # An unknown option may be the rest of a password that contains an "&".
    secret = {"password": "password=***", "username": "username=***", "": ""}
    return "&".join(
        option if re.fullmatch(_OPEN_OPTION, option) else secret.get(option.partition("=")[0], "***")
        for option in query.split("&")
    )


def check_url(value: object) -> str | None:
    """The URL for the client library; None for one that it would refuse later, or understand in another way."""
    if not isinstance(value, str) or not value.isprintable():  # such as a line break at the end of a secret's file
        return None
    scheme, _, rest = value.partition("://")
    url = f"{SCHEMES.get(scheme.lower())}://{rest}"
    try:
        parts = urlsplit(url)
        _ = parts.hostname or parts.port  # raises if the port is no number; with a host, `objection` reports that
    except ValueError:
        return None
    if parts.scheme == "unix" and (parts.netloc.rpartition("@")[2] or not parts.path):
        return None  # the client library would open /x.sock for unix://tmp/x.sock
    return url if scheme.lower() in SCHEMES else None


# The options of a URL, each with a pattern for its value. The client library takes many more and passes them to
# its connections. They are refused here, because most of them break what aioq relies on. Replies would be decoded
# (`decode_responses`, `encoding`) or have another form (`protocol`). Reads that block on purpose and renewals of a
# lease would time out (`socket_timeout`, `socket_connect_timeout`). A command that the server may have executed
# would be sent again (`retry_on_timeout`). Others have no effect here (`max_connections`: the pool is aioq's own).
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
    """The error about the port, the database or an option of a URL that `check_url` has returned, or None."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    wrong = _wrong_port(parts) or _wrong_database(parts) or _wrong_option(url, parts.scheme, options)
    wrong = wrong or _twice(options)
    return wrong and f"{mask_url(url)} {wrong}"


def _wrong_port(parts: SplitResult) -> str | None:
    if not parts.hostname:
        return None
    try:
        wrong = parts.port == 0  # the client library would use the default port instead
    except ValueError:
        wrong = True
    return "cannot be used: its port must be a number from 1 to 65535" if wrong else None


def _wrong_database(parts: SplitResult) -> str | None:
    # The client library would use database 0 instead.
    wrong = parts.scheme != "unix" and not re.fullmatch("/?[0-9]*", parts.path)
    return "cannot be used: its database must be a number" if wrong else None


def _wrong_option(url: str, scheme: str, options: Sequence[tuple[str, str]]) -> str | None:
    for name, value in options:
        pattern, expected = _OPTIONS[scheme].get(name, (None, ""))
        if pattern is None:
            return _unknown_option(name, url, scheme)
        if not re.fullmatch(pattern, value):
            return f"cannot be used: its option {name!r} must be {expected}"
    return None


def _twice(options: Sequence[tuple[str, str]]) -> str | None:
    repeated = [name for name, times in Counter(name for name, _ in options).items() if times > 1]
    return f"cannot be used: it has the option {repeated[0]!r} twice" if repeated else None


def _unknown_option(name: str, url: str, scheme: str) -> str:
    elsewhere = [f"{other}://" for other, options in _OPTIONS.items() if name in options]
    if elsewhere:
        return f"has the option {name!r}, which only a {' or '.join(elsewhere)} URL takes"
    takes = f"it takes {', '.join(sorted(_OPTIONS[scheme]))}"
    query = url.partition("?")[2]
    if "password=" in query or "@" in query or "=" not in query:
        encoded = "if it is a piece of a password, write that percent-encoded (& as %26, ? as %3F)"
        return f"has an option that aioq does not take; {takes}; {encoded}"
    return f"has the option {name!r}, which aioq does not take; {takes}"
