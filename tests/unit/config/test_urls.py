import contextlib
import inspect
import re
from string import ascii_letters
from urllib.parse import quote, urlencode

import pytest
import redis
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import connection

from aioq.config.settings import load_settings
from aioq.config.urls import Servers, check_url, mask_url, objection, parse_servers
from aioq.errors import ConfigError

relaxed = settings(deadline=None)

# -- mask_url ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://", "redis://"),
        ("redis:///2", "redis:///2"),
        ("redis://:pw@h:6379/0", "redis://***@h:6379/0"),
        ("rediss://user:pw@h", "rediss://***@h"),
        ("redis://token@h", "redis://***@h"),
        ("redis://u:pw@[::1]:6379", "redis://***@[::1]:6379"),
        ("redis://h?password=pw&db=1", "redis://h?password=***&db=1"),
        ("redis://h?db=1&username=u&password=pw", "redis://h?db=1&username=***&password=***"),
        ("redis://h?ssl_password=pw&p%61ssword=pw&protocol=3", "redis://h?***&***&protocol=3"),
        ("redis://h?password=p&w", "redis://h?password=***&***"),
        ("redis://h?password=p@w", "redis://***"),
        ("redis://h?", "redis://h?"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
        ("unix://u:pw@/run/redis.sock", "unix://***@/run/redis.sock"),
        ("redis+cluster://a:6379,b", "redis+cluster://a:6379,b"),
        ("rediss+cluster://u:pw@a:1,[::1]:2/0?client_name=x", "rediss+cluster://***@a:1,[::1]:2/0?client_name=x"),
        ("redis+sentinel://:pw@s1,s2:26379/mymaster/0", "redis+sentinel://***@s1,s2:26379/mymaster/0"),
        ("redis+sentinel://s/m?sentinel_password=pw&db=1", "redis+sentinel://s/m?sentinel_password=***&db=1"),
        ("redis+sentinel://s/m/pw", "redis+sentinel://***"),
        ("redis+other://u:pw@h", "***@h"),
        # a password with raw special characters
        ("redis://u:p@ss/w#rd@h/0", "redis://***@h/0"),
        ("redis://:p?w@h/0", "redis://***"),
        ("redis://:p://w@h/0", "redis://***@h/0"),
        # a host or a scheme left out
        ("redis://:pw", "redis://***"),
        ("redis://:12/pw", "redis://***"),
        ("user:pw@h:6379", "***@h:6379"),
        ("redis:user:pw@h", "***@h"),
        ("user:pw", "***"),
        ("u:a://pw", "***"),
        ("", ""),
    ],
)
def test_mask_url(url: str, masked: str):
    assert mask_url(url) == masked


# Q, W, X and Z are in no other part of the URLs below: in the result they are a piece of the password.
SECRETS = st.text(st.sampled_from("QWXZ:/?#@&=%[] \n\\'\"é") | st.characters(codec="utf-8"), min_size=1)
FRAMES = st.sampled_from([
    "redis://:{}@host:6379/0",
    "rediss://user:{}@host",
    "redis://{}@[::1]:6379/0?db=1",
    "unix://:{}@/run/redis.sock",
    "redis+cluster://user:{}@host:6379,other",
    "rediss+sentinel://:{}@host,other:1/name/0",
    "redis+sentinel://host/name?sentinel_password={}",
    "redis://host:6379/0?password={}",
    "redis://host?db=1&password={}&protocol=3",
    "user:{}@host",
])  # fmt: skip


@relaxed
@given(FRAMES, SECRETS, st.booleans())
def test_mask_url_never_leaks_the_password(frame: str, secret: str, quoted: bool):
    secret = f"Q{secret}Z"
    written = quote(secret, safe="") if quoted else secret
    masked = mask_url(frame.format(written))
    assert not set("QWXZ") & set(masked)
    assert "***" in masked


@relaxed
@given(st.text() | st.from_regex(r"(redis|unix)://[^@]*@?[^?]*\?.*"))
def test_mask_url_never_raises(text: str):
    masked = mask_url(text)
    assert len(masked) <= 4 * len(text) + 4  # *** for every part of a query, at the most


# -- check_url -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("redis://localhost", "redis://localhost"),
        ("REDISS://u:p@h:6380/3?db=1", "rediss://u:p@h:6380/3?db=1"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("valkey://h:6379", "redis://h:6379"),
        ("valkeys://h:6379", "rediss://h:6379"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
        ("unix://u:p@/run/my redis.sock", "unix://u:p@/run/my redis.sock"),
        ("redis://h:6379/", "redis://h:6379/"),
        ("VALKEY+cluster://a,b:7001", "redis+cluster://a,b:7001"),
        ("valkeys+sentinel://a/name", "rediss+sentinel://a/name"),
    ],
)
def test_a_url_is_stored_in_its_one_form(url: str, stored: str):
    assert check_url(url) == stored


@relaxed
@given(st.text(ascii_letters + ":/?#@&=[]%", max_size=12))
def test_a_url_setting_is_kept_or_refused_with_a_config_error(rest: str):
    with contextlib.suppress(ConfigError):
        assert load_settings({"url": f"redis://{rest}"}, environ={}).url == f"redis://{rest}"


# -- options -------------------------------------------------------------------------------------------------

OPTIONS = {
    "redis": {"db": "3", "username": "u", "password": "p&w", "client_name": "shop-1", "socket_keepalive": "no"},
    "unix": {"db": "3", "username": "u", "password": "p", "client_name": "shop"},
    "rediss": {
        "ssl_ca_certs": "/etc/ca.pem",
        "ssl_ca_data": "-----BEGIN",
        "ssl_ca_path": "/etc/ca",
        "ssl_cert_reqs": "optional",
        "ssl_certfile": "/etc/me.pem",
        "ssl_check_hostname": "False",
        "ssl_ciphers": "ECDHE+AESGCM",
        "ssl_exclude_verify_flags": "VERIFY_X509_STRICT",
        "ssl_include_verify_flags": "[VERIFY_X509_PARTIAL_CHAIN, VERIFY_X509_STRICT]",
        "ssl_keyfile": "/etc/me.key",
        "ssl_min_version": "771",
        "ssl_password": "pw",
    },
}
OPTIONS["rediss"] |= OPTIONS["redis"]
# An older redis-py refuses these when it connects.
RECENT = ("ssl_ca_path", "ssl_exclude_verify_flags", "ssl_include_verify_flags", "ssl_min_version", "ssl_password")
REFUSED_HERE = RECENT if int(redis.__version__.partition(".")[0]) < 8 else ()
PLACES = {"redis": "redis://h:6379/0", "rediss": "rediss://h", "unix": "unix:///run/redis.sock"}


@pytest.mark.parametrize(
    ("scheme", "name"),
    [(scheme, name) for scheme, options in OPTIONS.items() for name in options if name not in REFUSED_HERE],
)
def test_an_option_that_is_allowed_is_one_of_the_client_library(scheme: str, name: str):
    url = f"{PLACES[scheme]}?{urlencode({name: OPTIONS[scheme][name]})}"
    assert check_url(url) == url
    assert objection(url) is None
    for library in (redis, redis.asyncio):
        library.ConnectionPool.from_url(url).make_connection()


def parameters(*classes: type) -> set[str]:
    return {
        name
        for made in classes
        for name, parameter in inspect.signature(made.__init__).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }


@pytest.mark.parametrize(
    ("scheme", "made"),
    [
        ("redis", connection.Connection),
        ("rediss", connection.SSLConnection),
        ("unix", connection.UnixDomainSocketConnection),
    ],
)
def test_every_other_option_of_the_client_library_is_refused_by_name(scheme: str, made: type):
    others = parameters(connection.AbstractConnection, connection.ConnectionPool, connection.Connection, made)
    others -= {"self", "connection_class", *OPTIONS[scheme]}
    assert len(others) > 20
    for name in sorted(others):
        text = objection(f"{PLACES[scheme]}?db=1&{name}=1")
        assert text is not None, name
        assert f"has the option {name!r}, which " in text
        if name not in OPTIONS["rediss"]:
            assert text.endswith("aioq does not take; it takes " + ", ".join(sorted(OPTIONS[scheme])))


def test_tls_options_without_tls_say_where_they_belong():
    assert objection("redis://h?ssl_ca_certs=/etc/ca.pem") == (
        "redis://h?ssl_ca_certs=/etc/ca.pem has the option 'ssl_ca_certs', which only a rediss:// URL takes"
    )
    assert objection("unix:///s?socket_keepalive=true") == (
        "unix:///s?socket_keepalive=true has the option 'socket_keepalive', "
        "which only a redis:// or rediss:// URL takes"
    )


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("db=one", "its option 'db' must be a number"),
        ("db=", "its option 'db' must be a number"),
        ("db=-1", "its option 'db' must be a number"),
        ("socket_keepalive=perhaps", "its option 'socket_keepalive' must be true or false"),
        ("ssl_cert_reqs=maybe", "its option 'ssl_cert_reqs' must be none, optional or required"),
        ("ssl_ca_certs=", "its option 'ssl_ca_certs' must be a text"),
        ("db=1&db=2", "it has the option 'db' twice"),
    ],
)
def test_an_option_with_a_wrong_value_is_named(query: str, text: str):
    assert objection(f"rediss://h?{query}") == f"rediss://h?{query} cannot be used: {text}"


def test_a_value_that_may_be_secret_is_not_shown():
    assert objection("rediss://h?client_name=my%20shop") == (
        "rediss://h?*** cannot be used: its option 'client_name' must be without blanks"
    )
    assert objection("redis://tok/en@h/0") == "redis://***@h/0 cannot be used: its database must be a number"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:79x44",
        "redis://h:0/1",
        "rediss://h:65536",
        "redis://u:p@h:-1",
        "redis://:hunter2@h:port/",
        "redis://[::1]:a",
    ],
)
def test_an_invalid_port_is_named(url: str):
    assert check_url(url) == url
    assert objection(url) == f"{mask_url(url)} cannot be used: its port must be a number from 1 to 65535"
    with pytest.raises(ConfigError, match="its port must be a number") as caught:
        load_settings({"url": url}, environ={})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://h/one", "redis://h/0/1", "rediss://h/-1"])
def test_a_database_that_is_no_number_is_refused(url: str):
    assert (objection(url) or "").endswith(" cannot be used: its database must be a number")


@pytest.mark.parametrize(
    "url",
    ["redis://h?password=p&w", "redis://h?db=1&password=p&w=3&x", "redis://:p?w&x@h/0", "redis://h?p%40w"],
)
def test_what_may_be_a_piece_of_a_password_is_not_named(url: str):
    text = objection(url)
    assert text is not None
    assert " has an option that aioq does not take; it takes client_name, db, " in text
    assert text.endswith("; if it is a piece of a password, write that percent-encoded (& as %26, ? as %3F)")
    assert text.startswith(mask_url(url))


@pytest.mark.parametrize("url", ["redis://h?", "redis://h?&", "redis://:p%26w@h", "redis://h?password=p%26w%3D"])
def test_what_is_no_option_is_let_be(url: str):
    assert objection(url) is None


@relaxed
@given(FRAMES, SECRETS, st.booleans())
def test_an_objection_never_leaks_the_password(frame: str, secret: str, quoted: bool):
    secret = f"Q{secret}Z"
    url = check_url(frame.format(quote(secret, safe="") if quoted else secret))
    text = url and objection(url)
    if text:
        assert not set("QWXZ") & set(text)


def test_an_option_that_is_misspelt_is_named():
    assert "has the option 'decode_response', which aioq does not take" in (
        objection("redis://h?decode_response=1") or ""
    )


def test_an_app_refuses_an_option_when_it_is_made():
    with pytest.raises(ConfigError) as caught:
        load_settings({"url": "redis://:hunter2@h?decode_responses=true"}, environ={})
    assert str(caught.value) == (
        "setting 'url' from App(...): redis://***@h?*** has the option 'decode_responses', which aioq does not "
        "take; it takes client_name, db, password, socket_keepalive, username"
    )
    with pytest.raises(ConfigError, match=r"from environment variable AIOQ_URL: .* has the option 'protocol'"):
        load_settings({}, environ={"AIOQ_URL": "redis://h?protocol=3"})


# -- several servers -----------------------------------------------------------------------------------------


def servers(url: str) -> Servers:
    found = parse_servers(url)
    assert found is not None
    return found


def test_a_url_of_one_server_names_no_others():
    assert parse_servers("redis://h") is None


def test_a_cluster_has_nodes_with_one_login():
    found = servers("rediss+cluster://u:p%40@a,[::1]:7001?client_name=x&ssl_cert_reqs=none")

    assert (found.kind, found.name) == ("cluster", "")
    assert found.addresses == (("a", 6379), ("::1", 7001))
    assert found.server_url("b", 7002) == "rediss://u:p%40@b:7002?client_name=x&ssl_cert_reqs=none"
    assert found.server_url("fe80::2", 7) == "rediss://u:p%40@[fe80::2]:7?client_name=x&ssl_cert_reqs=none"


def test_sentinels_have_a_login_of_their_own():
    url = "redis+sentinel://:pw@s1,s2:26380/my-master/3?sentinel_username=s&sentinel_password=a%26b&client_name=x"
    found = servers(url)

    assert (found.kind, found.name) == ("sentinel", "my-master")
    assert found.addresses == (("s1", 26379), ("s2", 26380))
    assert found.server_url("p", 6379) == "redis://:pw@p:6379/3?client_name=x"
    assert found.sentinel_url("s1", 26379) == "redis://s1:26379?username=s&password=a%26b&client_name=x"


@pytest.mark.parametrize(
    ("scheme", "option", "sentinel", "server"),
    [
        ("redis", "", "redis://s:1", "redis://p:2"),
        ("rediss", "", "rediss://s:1", "rediss://p:2"),
        ("rediss", "?sentinel_tls=no&ssl_cert_reqs=none", "redis://s:1", "rediss://p:2?ssl_cert_reqs=none"),
        ("redis", "?sentinel_tls=True", "rediss://s:1", "redis://p:2"),
        ("rediss", "?ssl_ca_path=/c", "rediss://s:1?ssl_ca_path=/c", "rediss://p:2?ssl_ca_path=/c"),
    ],
)
def test_sentinels_have_a_tls_of_their_own(scheme: str, option: str, sentinel: str, server: str):
    found = servers(f"{scheme}+sentinel://s:1/name{option}")

    assert found.sentinel_url("s", 1).replace("%2F", "/") == sentinel
    assert found.server_url("p", 2).replace("%2F", "/") == server


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+cluster://", "each server must be host:port, several separated by commas"),
        ("redis+cluster://a,,b", "each server must be host:port, several separated by commas"),
        ("redis+cluster://a:b", "each server must be host:port, several separated by commas"),
        ("redis+cluster://a:0", "each port must be a number from 1 to 65535"),
        ("redis+cluster://a,b:65536", "each port must be a number from 1 to 65535"),
        ("redis+cluster://a/x", "its database must be a number"),
        ("redis+sentinel://a:26379", "it must name the primary, as in redis+sentinel://host:26379/mymaster/0"),
        ("redis+sentinel://a//0", "it must name the primary"),
        ("redis+sentinel://a/m/x", "its database must be a number"),
        ("redis+sentinel://a/m?sentinel_tls=2", "its option 'sentinel_tls' must be true or false"),
        ("redis+cluster://a?sentinel_tls=1", "which only a redis+sentinel:// or rediss+sentinel:// URL takes"),
        ("redis+cluster://a?ssl_ca_path=1", "which only a rediss:// URL takes"),
        ("redis+cluster://a?db=1&db=2", "it has the option 'db' twice"),
    ],
)
def test_a_url_of_several_servers_that_cannot_be_used_is_an_error(url: str, words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_settings({"url": url}, environ={})
