import contextlib
from string import ascii_letters
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioq.config import load_settings
from aioq.errors import ConfigError
from aioq.urls import check_url, mask_url

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
    ],
)
def test_a_url_is_stored_in_its_one_form(url: str, stored: str):
    assert check_url(url) == stored


@relaxed
@given(st.text(ascii_letters + ":/?#@&=[]%", max_size=12))
def test_a_url_setting_is_kept_or_refused_with_a_config_error(rest: str):
    with contextlib.suppress(ConfigError):
        assert load_settings({"url": f"redis://{rest}"}, environ={}).url == f"redis://{rest}"
