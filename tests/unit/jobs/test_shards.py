from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioq.jobs.job import new_job_id, new_job_ids, queue_of
from aioq.jobs.options import make_options
from aioq.jobs.shards import (
    by_queue,
    in_words,
    queue_of_shard,
    shard_name,
    shard_names,
    shard_of,
    shards_to_search,
)

numbers = st.integers(1, 1024)


@pytest.mark.parametrize(("shard", "name"), [(0, "mail"), (1, "mail#1"), (1023, "mail#1023")])
def test_the_first_shard_has_the_name_of_its_queue(shard: int, name: str):
    assert shard_name("mail", shard) == name
    assert queue_of_shard(name) == "mail"


def test_each_shard_has_a_name():
    assert shard_names("mail", 3) == ("mail", "mail#1", "mail#2")
    assert by_queue(["mail", "other", "mail#1"]) == {"mail": ["mail", "mail#1"], "other": ["other"]}


# These must never change: jobs of one key would come into two shards while two versions are in use.
@pytest.mark.parametrize(
    ("key", "in_2", "in_8", "in_1024"),
    [("", 0, 5, 472), ("customer-17", 1, 1, 799), ("München", 1, 2, 468), ("\ud800", 0, 6, 161)],
    ids=ascii,
)
def test_a_key_is_in_the_same_shard_in_every_version(key: str, in_2: int, in_8: int, in_1024: int):
    assert [shard_of(key, number) for number in (1, 2, 8, 1024)] == [0, in_2, in_8, in_1024]


@given(st.text(), numbers)
def test_a_key_has_one_of_the_shards(key: str, number: int):
    found = shard_of(key, number)
    assert 0 <= found < number
    assert shard_of(key, number) == found


@given(st.text(), st.integers(1, 1023))
def test_one_more_shard_takes_keys_to_itself_only(key: str, number: int):
    before, after = shard_of(key, number), shard_of(key, number + 1)
    assert after in {before, number}


@pytest.mark.parametrize("number", [2, 3, 8, 100])
def test_keys_are_spread_evenly_and_few_of_them_move(number: int):
    keys = [f"customer-{each}" for each in range(number * 500)]
    counts = Counter(shard_of(key, number) for key in keys)
    assert len(counts) == number
    assert 350 < min(counts.values()) <= max(counts.values()) < 650  # 500 on average, with a deviation of 22
    moved = sum(shard_of(key, number) != shard_of(key, number + 1) for key in keys)
    assert 0.7 < moved / (len(keys) / (number + 1)) < 1.3


@given(st.text(min_size=1), numbers, numbers)
def test_all_shards_are_searched_each_once_and_the_likeliest_first(job_id: str, number: int, most: int):
    found = shards_to_search("mail", job_id, number, most)
    assert found[0] == shard_name("mail", shard_of(job_id, number))
    assert sorted(found) == sorted(shard_names("mail", max(number, most)))


@pytest.mark.parametrize(
    ("number", "served", "words"),
    [
        (1, 0, "mail"),
        (1, 1, "mail"),
        (8, 8, "mail (8 shards)"),
        (4, 8, "mail (4 shards, 4 more to drain)"),
        (1, 2, "mail (1 shard, 1 more to drain)"),
    ],
)
def test_a_queue_in_words(number: int, served: int, words: str):
    assert in_words("mail", number, served) == words


# -- ids name their shard -----------------------------------------------------------------------------------------


@given(st.text("AZaz09._-", min_size=1, max_size=128), st.integers(0, 1023))
def test_a_generated_id_names_its_shard(queue: str, shard: int):
    name = shard_name(queue, shard)
    if name != "default":
        assert queue_of(new_job_id(name)) == name
        assert {queue_of(each) for each in new_job_ids(name, 3)} == {name}


@pytest.mark.parametrize(
    "job_id",
    [
        f"{name}.{'a' * 16}"
        for name in ("mail#", "mail#0", "mail#01", "mail#x", "mail#1#2", "#1", "mail#12345", "mail#-1")
    ],
)
def test_an_id_that_only_looks_like_it_names_none(job_id: str):
    assert queue_of(job_id) is None


# -- the option ---------------------------------------------------------------------------------------------------


def test_a_shard_key_is_a_text():
    assert make_options("task 'add'", shard_key="customer-17").shard_key == "customer-17"
    assert make_options("task 'add'", shard_key=None).shard_key is None
