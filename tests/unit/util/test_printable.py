"""What others have written, in a log and on a terminal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioq.util.printable import json_ascii, json_printable, printable, printable_lines

FORGED = "2026-11-29 12:00:00,000 INFO    shop.pay[1] succeeded in 0.01s: 'paid'"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("日本語　é 👨‍👩", "日本語　é 👨‍👩"),
        ("a\nb\r\nc\td", r"a\nb\r\nc\td"),
        ("\x1b[2J\x9b1A\x7f\x00", r"\x1b[2J\x9b1A\x7f\x00"),
        ("a\u2028b\u2029c\x85d\x0be", r"a\u2028b\u2029c\x85d\x0be"),
        ("\u202egnp.exe\u2066\u200f\u061c", r"\u202egnp.exe\u2066\u200f\u061c"),
        ("caf\udce9", r"caf\udce9"),
        ("\U000e0041\ufeff\u200b", r"\U000e0041\ufeff\u200b"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_one_line_stays_one(text: str) -> None:
    assert len(printable(text).splitlines()) <= 1
    printable(text).encode()
    assert len(json_printable(json.dumps(text, ensure_ascii=False)).splitlines()) == 1


@given(st.text(st.characters()))
def test_json_says_the_same_afterwards(text: str) -> None:
    whole = json.dumps(text, ensure_ascii=False)
    assert json.loads(json_printable(whole)) == json.loads(json_ascii(whole)) == text
    assert json_ascii(whole).isascii()


@pytest.mark.parametrize(
    "breaks", ["\n", "\r\n", "\n\n", "\r", "\x85", "\u2028", "\x0b", "\n\x1b[2K\r", "\n\u202d"]
)
def test_no_line_after_the_first_looks_like_a_record(breaks: str) -> None:
    shown = printable_lines(f"said: no{breaks}{FORGED}{breaks}{FORGED}")
    assert not [line for line in shown.splitlines() if line.startswith("2026")]
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    "before",
    [
        "ValueError: no",
        "Traceback (most recent call last):",
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\nValueError: no',
        'Traceback (most recent call last):\n  File "a.py", line 1, in f',
    ],
)
def test_nor_behind_a_traceback(before: str) -> None:
    shown = printable_lines(f"failed: x\n{before}\n{FORGED}")
    assert shown.endswith(f"\n    {FORGED}")


TRACEBACK = """shop.add[1] failed: ValueError: no
Traceback (most recent call last):
  File "shop.py", line 3, in add
    raise ValueError("no")
ValueError: no

During handling of the above exception, another exception occurred:

  + Exception Group Traceback (most recent call last):
  |   File "shop.py", line 5, in add
  | ExceptionGroup: two (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | ValueError: one
    +------------------------------------"""


def test_a_traceback_stays_as_it_is() -> None:
    assert printable_lines(TRACEBACK) == TRACEBACK


def test_the_rest_of_a_message_in_a_traceback_is_indented() -> None:
    shown = printable_lines('Traceback (most recent call last):\n  File "a", line 1\nshop.Bad: one\ntwo: 2\nthree')
    assert shown == 'Traceback (most recent call last):\n  File "a", line 1\nshop.Bad: one\n    two: 2\n    three'
