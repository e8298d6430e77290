import pytest

from aioq.store.shards import StoredShards, read_shards, shard_fields


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, {}),
        ({"mail": "8"}, {"mail": StoredShards(8)}),
        ({"mail": "4", "mail#8": "", "mail#4": ""}, {"mail": StoredShards(4, (8,))}),
        (
            {"mail": "4", "mail#2": "", "mail#12": "", "other": "2"},
            {"mail": StoredShards(4, (2, 12)), "other": StoredShards(2)},
        ),
        ({"mail#8": ""}, {}),
        ({"mail": "0"}, {}),
        ({"mail": "-1"}, {}),
        ({"mail": "x"}, {}),
        ({"mail": ""}, {}),
        ({"mail": "1" * 5000}, {}),
        ({"mail": "\u0664"}, {}),
        ({"mail": "2", "mail#x": "", "mail#": "", "mail#0": "", "mail#2#3": ""}, {"mail": StoredShards(2)}),
    ],
)
def test_what_the_register_holds_and_what_is_no_number(fields: dict[str, str], found: dict[str, StoredShards]):
    assert read_shards(fields) == found


@pytest.mark.parametrize(
    ("steps", "number", "served"),
    [
        ([(8, None)], 8, 8),
        ([(8, None), (12, 8)], 12, 12),
        ([(8, None), (4, 8)], 4, 8),
        ([(8, None), (12, 8), (4, 8)], 4, 12),  # two who have both read 8
        ([(8, None), (4, 1)], 4, 8),
        ([(2, 1), (1, 2)], 1, 2),
    ],
)
def test_after_changes_all_that_was_ever_used_is_served(
    steps: list[tuple[int, int | None]], number: int, served: int
):
    fields: dict[str, str] = {}
    for new, before in steps:
        fields |= shard_fields("mail", new, before)
    stored = read_shards(fields)["mail"]
    assert (stored.number, stored.served) == (number, served)
