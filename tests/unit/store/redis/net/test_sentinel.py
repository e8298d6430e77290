"""What a search for the primary concludes from the answers of the sentinels."""

from collections.abc import Callable

import pytest
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError
from aioq.store.redis.net.sentinel import Search, shown

ONE, TWO = ("one", 26379), ("two", 26380)
SERVER, OTHER = ("10.0.0.1", 6379), ("10.0.0.2", 6379)
URL = "redis+sentinel://one,two/main"

Notes = Callable[[Search], None]


def searched(*notes: Notes, tls: bool = False) -> ServerError:
    """The error of a search with these answers."""
    search = Search("main", URL, tls=tls)
    for note in notes:
        note(search)
    return search.error()


def failed(sentinel: tuple[str, int], error: Exception) -> Notes:
    return lambda search: search.failed(sentinel, error)


def unusable(server: tuple[str, int], error: Exception | str) -> Notes:
    return lambda search: search.unusable(server, error)


def unknown(sentinel: tuple[str, int], *names: str) -> Notes:
    return lambda search: search.unknown(sentinel, names)


REFUSED = RedisConnectionError("Error 111 connecting to one:26379. Connection refused.")
WRONG_PASSWORD = AuthenticationError("invalid username-password pair or user is disabled.")
NO_SENTINEL = ResponseError("unknown command 'SENTINEL', with args beginning with: ...")


def test_an_address_is_shown_as_it_is_written_in_a_url() -> None:
    assert shown(("host", 1)) == "host:1"
    assert shown(("::1", 1)) == "[::1]:1"


def test_a_server_that_was_of_no_use_is_not_tried_twice() -> None:
    search = Search("main", URL)
    assert search.address([b"10.0.0.1", b"6379"]) == SERVER
    search.unusable(SERVER, "is not ready: the sentinels name a replica as the primary")
    assert search.address([b"10.0.0.1", b"6379"]) is None
    assert search.address([b"10.0.0.2", b"6379"]) == OTHER


@pytest.mark.parametrize(
    ("notes", "kind", "text"),
    [
        (
            [failed(ONE, REFUSED), failed(TWO, TimeoutError())],
            ServerUnavailableError,
            "cannot be reached: no sentinel answers (one:26379: Connection refused; "
            "two:26380: no answer within 1 s)",
        ),
        (
            [failed(ONE, RedisTimeoutError("Timeout reading from socket")), failed(TWO, TimeoutError())],
            ServerUnavailableError,
            "cannot be reached: no sentinel answers (one:26379, two:26380: no answer within 1 s)",
        ),
        (
            [unknown(ONE, "shop", "mail"), unknown(TWO, "mail", "shop")],
            ServerRejectedError,
            "cannot be used: one:26379, two:26380: no primary is known as 'main', only 'mail', 'shop'",
        ),
        (
            [failed(ONE, REFUSED), unknown(TWO)],
            ServerRejectedError,
            "cannot be used: one:26379: Connection refused; two:26380: no primary is known as 'main'",
        ),
        (
            [failed(ONE, WRONG_PASSWORD), failed(TWO, WRONG_PASSWORD)],
            ServerRejectedError,
            "cannot be used: one:26379, two:26380: the login was refused (invalid username-password pair or user "
            "is disabled.); check sentinel_username and sentinel_password in the URL",
        ),
        (
            [failed(ONE, NO_SENTINEL)],
            ServerRejectedError,
            "cannot be used: one:26379: this is no sentinel; write redis://one:26379 if it is the server, or "
            "redis+cluster://one:26379 if it is a node of a cluster",
        ),
        (
            [unusable(SERVER, "is not ready: the sentinels name a replica as the primary"), failed(TWO, REFUSED)],
            ServerUnavailableError,
            "(10.0.0.1:6379) is not ready: the sentinels name a replica as the primary",
        ),
        (
            [unusable(SERVER, WRONG_PASSWORD)],
            ServerRejectedError,
            "(10.0.0.1:6379) refused the login: invalid username-password pair or user is disabled.; check user "
            "name and password in the URL",
        ),
    ],
)
def test_an_error_says_what_and_where(notes: list[Notes], kind: type[ServerError], text: str) -> None:
    error = searched(*notes)
    assert type(error) is kind
    assert str(error) == f"{URL} {text}"


def test_a_name_that_is_not_found_is_said() -> None:
    error = searched(
        failed(ONE, RedisConnectionError("Error -2 connecting to one:26379. Name or service not known."))
    )
    assert str(error).endswith("(one:26379: Name or service not known.)")


def test_a_refused_login_is_kept_apart() -> None:
    for notes in ([failed(ONE, WRONG_PASSWORD)], [unusable(SERVER, WRONG_PASSWORD)]):
        error = searched(*notes)
        assert isinstance(error, ServerRejectedError)
        assert error.is_login


def test_over_tls_the_words_fit() -> None:
    assert str(searched(failed(ONE, TimeoutError()), tls=True)).endswith(
        "(one:26379: no answer within 1 s; if it speaks no TLS, add sentinel_tls=no to the URL)"
    )
    assert str(searched(failed(ONE, NO_SENTINEL), tls=True)).endswith(
        "write rediss://one:26379 if it is the server, or rediss+cluster://one:26379 if it is a node of a cluster"
    )


def test_the_wrapped_error_of_a_login_is_the_one_that_counts() -> None:
    wrapped = RedisConnectionError("Error connecting")
    wrapped.__cause__ = WRONG_PASSWORD
    error = searched(failed(ONE, wrapped))
    assert "the login was refused (invalid username-password pair" in str(error)
