"""What the two-hosts README shows of Redis is what is there; ids, times and the worker's name aside."""

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.behaviour.kit import ROOT, Project, until
from tests.servers import Server

pytestmark = pytest.mark.anyio

EXAMPLE = ROOT / "examples" / "two_hosts"
PAGE = (EXAMPLE / "README.md").read_text()
KINDS = {"sorted set": "zset"}
VARIES = {1, 5, 7, 9}  # of a record's fields, from 0: sent, the worker, the claim's number, ended


@contextmanager
def cleared_copy(project: Project) -> Iterator[Project]:
    for file in EXAMPLE.rglob("*.py"):
        project.write(str(file.relative_to(EXAMPLE)), file.read_text())
    yield project


def shown_records() -> list[bytes]:
    """The records in the README, as `redis-cli` escapes bytes."""
    texts = re.findall(r"GET 'aioq:\{proj:default\}:job:\w+'\n\"(.*)\"\n", PAGE)
    return [codecs.escape_decode(text)[0] for text in texts]  # pyright: ignore[reportAttributeAccessIssue]


def fields(client: Any, record: bytes) -> list[Any]:
    """A record's fields, unpacked by the server; what differs from run to run is only there."""
    unpacked = client.eval("return cmsgpack.unpack(ARGV[1])", 0, record)
    return ["varies" if at in VARIES and value is not None else value for at, value in enumerate(unpacked)]


async def test_the_readme_shows_the_records_and_the_keys_that_are_there(
    project: Project, start_server: Callable[..., Server]
) -> None:
    server = start_server()
    project.settings = {"AIOQ_URL": server.url}
    with cleared_copy(project), server.client() as text:
        client: Any = type(text).from_url(server.url)  # one that leaves bytes as they are
        sender = project.python("client.py")
        assert await sender.ended() == 0, sender.log
        job_id = re.findall(r" is job (\w+)$", "\n".join(sender.printed), re.MULTILINE)[0]
        key = f"aioq:{{proj:default}}:job:{job_id}"
        (entry, _) = client.xrange("aioq:{proj:default}:normal")
        found = [bytes(client.get(key))]
        listed = re.search(r"--scan --pattern .*\n((?:\"aioq.*\"\n)+)", PAGE)
        assert listed is not None
        there = {re.sub(r":job:\w+", ":job:", each) for each in text.scan_iter("aioq:{proj:default}:*")}
        assert {re.sub(r":job:\w+", ":job:", each) for each in re.findall(r'"(.*)"', listed[1])} == there
        assert entry[1] == {b"job": job_id.encode()}

        worker = project.worker("proj.app:app")
        await until(lambda: b"running" in client.get(key))
        found.append(bytes(client.get(key)))
        await until(lambda: b"succeeded" in client.get(key))
        found.append(bytes(client.get(key)))

        shown = shown_records()
        assert len(shown) == 3
        for each, real in zip(shown, found, strict=True):
            assert fields(client, each) == fields(client, real)
        assert 3590 < client.ttl(key) <= 3600
        kinds = keys_of_the_table()
        for name in text.scan_iter("aioq:{proj:default}:*"):
            assert text.type(name) == kinds[kind_of(name)], name
        client.close()
        assert await worker.stop() == 0


def kind_of(key: str) -> str:
    """The table's word for a key."""
    name = key.removeprefix("aioq:{proj:default}:")
    name = re.sub(r"^(job|held|schedule):.*", r"\1:", name)
    return re.sub(r"^(high|normal|low)(:\w+)?$", lambda found: f"high{found[2] or ''}", name)


def keys_of_the_table() -> dict[str, str]:
    """Key and type of each row."""
    kinds: dict[str, str] = {}
    rows: list[tuple[str, str]] = re.findall(r"^\| `\.\.\.:(.+?) \| ([a-z, ]+) \| ", PAGE, re.MULTILINE)
    for names, types in rows:
        keys = [
            re.sub(r"<\w+>", "", each).strip("`:. ") + (":" if "<" in each else "") for each in names.split(", ")
        ]
        for key, kind in zip(keys, types.split(", ") if ", " in types else [types] * len(keys), strict=True):
            kinds[key] = KINDS.get(kind, kind)
    return kinds
