"""Cursors come back as they were, and nothing else is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioq.errors import ConfigError
from aioq.jobs.job import JobState
from aioq.operate.cursor import decode_cursor, encode_cursor
from aioq.store.operating import TimeSpan

PLACES = st.dictionaries(
    st.tuples(st.text(max_size=9), st.sampled_from(JobState)),
    st.none() | st.lists(st.text(max_size=9), max_size=5).map(tuple),
    max_size=5,
)


@given(st.binary(max_size=8), st.none() | st.integers(0, 2**60), PLACES)
def test_it_comes_back_as_it_was(query, since, places):
    span = TimeSpan(since, None)
    text = encode_cursor(query, span, places)
    assert text.isascii()
    assert decode_cursor(text, query) == (span, places)
    with pytest.raises(ConfigError):
        decode_cursor(text, query + b"x")


@given(st.text() | st.integers() | st.binary() | st.none())
def test_anything_else_is_an_error(text):
    with pytest.raises(ConfigError):
        decode_cursor(text, b"")


def test_each_letter_counts():
    text = encode_cursor(b"12345678", TimeSpan(), {("mail", JobState.FAILED): ("1", "a")})
    for n in range(len(text) - 1):
        with pytest.raises(ConfigError):
            decode_cursor(text[:n] + ("A" if text[n] != "A" else "B") + text[n + 1 :], b"12345678")
        with pytest.raises(ConfigError):
            decode_cursor(text[:n], b"12345678")
