"""Server URLs: the checks of a URL, and its form without the password.

redis://host:port/database                        one server
redis+cluster://host:port,host:port               a cluster, and some of its nodes
redis+sentinel://host:port,host:port/name/database   a primary, under the name that these sentinels know it by
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

_PLAIN = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}

SCHEMES = {
    **_PLAIN,
    "unix": "unix",
    **{
        f"{scheme}+{kind}": f"{kept}+{kind}" for kind in ("cluster", "sentinel") for scheme, kept in _PLAIN.items()
    },
}
"""The schemes that a URL may have, and the one that is kept for each."""

# Patterns stay strings, which are compiled at the first use, so that an import takes no time for them.
_HOST = r"(\[[0-9A-Fa-f:.]*\]|[\w.-]+)(:[0-9]*)?"
_PLACE = rf"({_HOST}(/[0-9]*)?|(/.*)?)\s*"
_PLACES = rf"{_HOST}(,{_HOST})*(/[\w.-]*)?(/[0-9]*)?\s*"
_OPEN_OPTION = r"(client_name|db|protocol|sentinel_tls|socket_\w+|ssl_ca_certs|ssl_cert_reqs)=[\w./-]*"


def mask_url(url: str) -> str:
    """Return `url` with everything that is or may be a password replaced by `***`, for logs; never raises.

    People paste passwords without encoding them (`redis://:a@b/c?d@host`), or leave out the host or the scheme.
    So this function does not look for the password in its usual place. It shows only parts that are certainly
    harmless (scheme, host, port, database, some options) and masks the rest.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or not re.fullmatch(r"[A-Za-z0-9]+(\+(cluster|sentinel))?", scheme):
        scheme, mark, rest = "", "", url
    head, question, query = rest.partition("?")
    if "@" in query:  # either an @ in the query, or a ? in the password
        return f"{scheme}{mark}***"
    _, at, host = head.rpartition("@")
    place = host if re.fullmatch(_PLACES if "+" in scheme else _PLACE, host) else "***"
    return f"{scheme}{mark}{'***@' if at else ''}{place}{question}{_mask_query(query)}"


def _mask_query(query: str) -> str:
    # An unknown option may be the rest of a password that contains an "&".
    names = ("password", "username", "sentinel_password", "sentinel_username")
    secret = {"": "", **{name: f"{name}=***" for name in names}}
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
    if "+" in scheme:
        return url if scheme.lower() in SCHEMES else None
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
_OF_SENTINELS = {
    "sentinel_password": ("(?s).*", ""),
    "sentinel_tls": _TRUTH,
    "sentinel_username": ("(?s).*", ""),
}
_OPTIONS = {
    "unix": _ANYWHERE,
    "redis": _TCP,
    "rediss": _TLS,
    "redis+cluster": _TCP,
    "rediss+cluster": _TLS,
    "redis+sentinel": {**_TCP, **_OF_SENTINELS},
    "rediss+sentinel": {**_TLS, **_OF_SENTINELS},
}


def objection(url: str) -> str | None:
    """The error about the port, the database or an option of a URL that `check_url` has returned, or None."""
    scheme, _, rest = url.partition("://")
    options = parse_qsl(rest.partition("?")[2], keep_blank_values=True)
    if "+" in scheme:
        wrong = _wrong_place(url)
    else:
        parts = urlsplit(url)
        wrong = _wrong_port(parts) or _wrong_database(parts)
    wrong = wrong or _wrong_option(url, scheme, options) or _twice(options)
    return wrong and f"{mask_url(url)} {wrong}"


def _wrong_place(url: str) -> str | None:
    try:
        parse_servers(url)
    except ValueError as error:
        return f"cannot be used: {error}"
    return None


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
    with_tls = scheme == "redis+sentinel" and _is_true(dict(options).get("sentinel_tls", ""))
    accepted = _OPTIONS["rediss+sentinel" if with_tls else scheme]
    for name, value in options:
        pattern, expected = accepted.get(name, (None, ""))
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
    elsewhere = [each for each in elsewhere if "+" not in each] or elsewhere
    if elsewhere:
        return f"has the option {name!r}, which only a {' or '.join(elsewhere)} URL takes"
    takes = f"it takes {', '.join(sorted(_OPTIONS[scheme]))}"
    query = url.partition("?")[2]
    if "password=" in query or "@" in query or "=" not in query:
        encoded = "if it is a piece of a password, write that percent-encoded (& as %26, ? as %3F)"
        return f"has an option that aioq does not take; {takes}; {encoded}"
    return f"has the option {name!r}, which aioq does not take; {takes}"


@dataclass(frozen=True, slots=True)
class Servers:
    """The parts of a URL with `+cluster` or `+sentinel`.

    Attributes:
        kind: "cluster" or "sentinel".
        addresses: host and port of the nodes or sentinels that the URL names.
        name: the name that the sentinels know the primary by; empty for a cluster.
    """

    kind: str
    addresses: tuple[tuple[str, int], ...]
    name: str
    _scheme: str
    _login: str
    _path: str
    _options: tuple[tuple[str, str], ...]

    def server_url(self, host: str, port: int) -> str:
        """The URL of one node, or of the primary."""
        accepted = _OPTIONS[f"{self._scheme}+cluster"]
        options = [(option, value) for option, value in self._options if option in accepted]
        return self._url(self._scheme, self._login, (host, port), self._path, options)

    def sentinel_url(self, host: str, port: int) -> str:
        """The URL of one sentinel: with its own user and password, and the TLS options of the servers."""
        given = dict(self._options)
        tls = _is_true(given["sentinel_tls"]) if "sentinel_tls" in given else self._scheme == "rediss"
        own = {"username": given.get("sentinel_username"), "password": given.get("sentinel_password")}
        options = [(option, value) for option, value in own.items() if value is not None]
        options += [pair for pair in self._options if tls and pair[0].startswith("ssl_")]
        options += [pair for pair in self._options if pair[0] in {"client_name", "socket_keepalive"}]
        return self._url("rediss" if tls else "redis", "", (host, port), "", options)

    @staticmethod
    def _url(
        scheme: str, login: str, address: tuple[str, int], path: str, options: Sequence[tuple[str, str]]
    ) -> str:
        host, port = address
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        query = f"?{urlencode(options, quote_via=quote)}" if options else ""
        return f"{scheme}://{login}{place}{path}{query}"


def parse_servers(url: str) -> Servers | None:
    """The parts of a URL that `check_url` has returned; None for that of one server.

    Raises:
        ValueError: it names no server, or one that cannot be; the text goes on from "cannot be used:".
    """
    scheme, _, rest = url.partition("://")
    plain, plus, kind = scheme.partition("+")
    if not plus:
        return None
    head, _, query = rest.partition("?")
    before, at, after = head.rpartition("@")
    places, slash, path = after.partition("/")
    name = ""
    if kind == "sentinel":
        name, slash, path = path.partition("/")
        if not name:
            raise ValueError("it must name the primary, as in redis+sentinel://host:26379/mymaster/0")
    if not re.fullmatch("[0-9]*", path):
        raise ValueError("its database must be a number")
    default = 26379 if kind == "sentinel" else 6379
    addresses = tuple(_address(place, default) for place in places.split(","))
    options = tuple(parse_qsl(query, keep_blank_values=True))
    return Servers(kind, addresses, unquote(name), plain, f"{before}{at}", f"{slash}{path}", options)


_MOST_PORTS = 65_535


def _address(place: str, default: int) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::([0-9]+))?", place.strip())
    if found is None:
        raise ValueError("each server must be host:port, several separated by commas")
    port = int(found[2]) if found[2] else default
    if not 0 < port <= _MOST_PORTS:
        raise ValueError("each port must be a number from 1 to 65535")
    return found[1].strip("[]"), port


def _is_true(text: str) -> bool:
    return text.lower() in {"1", "t", "true", "y", "yes"}
