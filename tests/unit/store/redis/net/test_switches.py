"""What is read from the messages of sentinels."""

import pytest

from aioq.store.redis.net.switches import PROMOTED, SWITCH, new_primary


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        (SWITCH, "main 10.0.0.1 6379 10.0.0.2 6380"),
        (PROMOTED, "slave 10.0.0.2:6380 10.0.0.2 6380 @ main 10.0.0.1 6379"),
    ],
)
def test_both_messages_have_the_name_and_the_new_address(channel: str, text: str) -> None:
    assert new_primary(channel.encode(), text.encode()) == ("main", ("10.0.0.2", 6380))


def test_another_form_is_an_error() -> None:
    for channel in (SWITCH, PROMOTED):
        for text in (b"", b"main", b"main 10.0.0.1 6379 10.0.0.2 port"):
            with pytest.raises(ValueError, match=r"unpack|int"):
                new_primary(channel.encode(), text)
