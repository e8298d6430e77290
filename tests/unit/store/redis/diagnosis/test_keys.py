import re
from pathlib import Path
from typing import Any

import pytest

from aioq.store.redis.diagnosis.keys import MOST_RECORDS, AppKeys, find_keys
from aioq.store.redis.keys import MANY, ONES

DESIGN = Path(__file__).parents[5] / "docs" / "design.md"


def kept(*keys: str) -> AppKeys:
    found = AppKeys("shop")
    for key in keys:
        found.add(f"aioq:{{shop:{key}".encode())
    return found


def test_every_key_of_the_design_is_known():
    rows = re.findall(r"^\| ((?:`:[\w:<>-]+` ?)+) \|", DESIGN.read_text(), re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`:([^`]+)`", row)}
    assert names == ONES | {f"{kind}:<{each}>" for kind, each in re.findall(r"(\w+):<(\w+)>", " ".join(names))}
    assert {name.partition(":<")[0] for name in names - ONES} == MANY


def test_keys_are_counted_by_queue():
    found = kept("mail}:workers", "mail}:job:a", "old}:normal:rest", "}:schedule-queues")
    assert found.counts == {"mail": 2, "old": 1, "": 1}
    assert found.records == [b"aioq:{shop:mail}:job:a"]
    assert found.unknown == []


def test_keys_of_workers_are_found_by_worker():
    found = kept("mail}:held:w-1", "mail}:cancel:w-1", "mail}:held:w-2")
    base = "aioq:{shop:mail}"
    assert found.of_workers == {
        "mail": {"w-1": [f"{base}:held:w-1", f"{base}:cancel:w-1"], "w-2": [f"{base}:held:w-2"]}
    }


@pytest.mark.parametrize(
    "key", ["mail}:done:x", "mail}:job", "mail}:job:", "mail}", "mail", "mail}:normal:rest:x"]
)
def test_other_names_are_of_another_version(key: str):
    assert kept(key).unknown == [f"aioq:{{shop:{key}"]


def test_a_bounded_number_of_records_is_read():
    found = kept(*(f"mail}}:job:{number}" for number in range(MOST_RECORDS + 10)))
    assert len(found.records) == MOST_RECORDS


class Server:
    """Answers SCAN with one key at a time, each twice."""

    def __init__(self, keys: int) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._keys = keys

    async def command(self, *args: Any) -> list[Any]:
        self.calls.append(args)
        number = int(args[1])
        keys = [b"aioq:{shop:mail}:job:%d" % max(0, each) for each in (number, number - 1)]
        return [b"%d" % (number + 1 if number + 1 < self._keys else 0), keys]


@pytest.mark.anyio
async def test_each_key_counts_once():
    server = Server(3)
    found, is_all = await find_keys(server.command, "shop")
    assert (found.counts, is_all) == ({"mail": 3}, True)
    assert server.calls[0] == ("SCAN", b"0", "MATCH", "aioq:{shop:*", "COUNT", 1000)


@pytest.mark.anyio
async def test_a_search_is_bounded():
    server = Server(100)
    found, is_all = await find_keys(server.command, "shop", most=4_500)
    assert (found.counts, is_all) == ({"mail": 5}, False)
