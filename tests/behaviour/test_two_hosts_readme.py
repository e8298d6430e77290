"""What the two-hosts README shows of Redis is what is there; ids, times and the worker's name aside."""

import codecs
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.behaviour.kit import ROOT, Project, until
from tests.behaviour.pages import held_by
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


@dataclass(frozen=True)
class Shown:
    """A command of `redis-cli`, and what the README shows of its reply."""

    words: list[str]
    reply: str

    @property
    def record(self) -> bytes:
        """A record, as `redis-cli` escapes bytes."""
        return codecs.escape_decode(self.reply.strip().strip('"'))[0]  # pyright: ignore[reportAttributeAccessIssue]


def shown_commands() -> Iterator[Shown]:
    """In the order of the page."""
    for block in held_by("test_the_readme_shows_the_records_and_the_keys_that_are_there"):
        for command in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            line, _, reply = command.partition("\n")
            program, *words = shlex.split(line)
            if program == "export":
                assert words == ["REDISCLI_AUTH=s3cret"]  # the password that the server above was started with
                continue
            assert (program, words[:2]) == ("redis-cli", ["-h", "10.77.0.1"])
            yield Shown(words[2:], reply)


def printed(reply: Any, indent: str = "") -> str:
    """A reply as `redis-cli` prints it on a terminal."""
    if isinstance(reply, int):
        return f"(integer) {reply}"
    if isinstance(reply, bytes):
        return f'"{reply.decode()}"'
    lines = [f"{number}) {printed(each, indent + '   ')}" for number, each in enumerate(reply, 1)]
    return f"\n{indent}".join(lines)


def without_ids(text: str) -> str:
    """Ids of jobs and of a stream's entries, and periods of statistics, differ from run to run."""
    text = re.sub(r"(:stats:[mh])\d+", r"\1PERIOD", text)
    return re.sub(r"\d{13}-\d+", "ENTRY", re.sub(r'(job:|")\w{16}(?=")', r"\1ID", text)).strip()


def fields(client: Any, record: bytes) -> list[Any]:
    """A record's fields, unpacked by the server; what differs from run to run is only there."""
    unpacked = client.eval("return cmsgpack.unpack(ARGV[1])", 0, record)
    return ["varies" if at in VARIES and value is not None else value for at, value in enumerate(unpacked)]


def check(client: Any, shown: Shown, job_id: str) -> None:
    """Send a command of the page, with the id that the job has here, and compare the replies."""
    words = [re.sub(r"(?<=:job:)\w{16}$", job_id, word) for word in shown.words]
    if words[:2] == ["--scan", "--pattern"]:
        keys = sorted(f'"{key.decode()}"' for key in client.scan_iter(words[2]))
        assert sorted(without_ids(shown.reply).splitlines()) == sorted(without_ids("\n".join(keys)).splitlines())
    elif words[0] == "GET":
        assert fields(client, shown.record) == fields(client, client.get(words[1]))
    elif words[0] == "TYPE":
        assert shown.reply.strip() == client.type(words[1]).decode()
    elif words[0] == "TTL":
        (most,) = re.findall(r"^\(integer\) (\d+)$", shown.reply.strip())
        assert int(most) - 10 < client.ttl(words[1]) <= int(most)
    else:
        assert without_ids(shown.reply) == without_ids(printed(plain(client, words)))


def plain(client: Any, words: list[str]) -> Any:
    """What the server replies, not made into something else by redis-py."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command(*words)
        return connection.read_response()
    finally:
        client.connection_pool.release(connection)


async def test_the_readme_shows_the_records_and_the_keys_that_are_there(
    project: Project, start_server: Callable[..., Server]
) -> None:
    server = start_server()
    project.settings = {"AIOQ_URL": server.url}
    commands = list(shown_commands())
    at = [number for number, shown in enumerate(commands) if shown.words[0] == "GET"]
    assert len(at) == 3
    queued, running, ended = commands[: at[0] + 1], commands[at[0] + 1 : at[1] + 1], commands[at[1] + 1 :]
    with cleared_copy(project), server.client() as text:
        client: Any = type(text).from_url(server.url)  # one that leaves bytes as they are
        check_options(client)
        sender = project.python("client.py")
        assert await sender.ended() == 0, sender.log
        job_id = re.findall(r" is job (\w+)$", "\n".join(sender.printed), re.MULTILINE)[0]
        key = f"aioq:{{proj:default}}:job:{job_id}"
        for shown in queued:
            check(client, shown, job_id)

        worker = project.worker("proj.app:app")
        await until(lambda: b"running" in client.get(key))
        for shown in running:
            check(client, shown, job_id)
        await until(lambda: b"succeeded" in client.get(key))
        for shown in ended:
            check(client, shown, job_id)

        kinds = keys_of_the_table()
        for name in text.scan_iter("aioq:{proj:default}:*"):
            assert text.type(name) == kinds[kind_of(name)], name
        client.close()
        assert await worker.stop() == 0


def check_options(client: Any) -> None:
    """The server has the options that it is started with on the page."""
    (line,) = re.findall(r"^\$ redis-server (.*)$", PAGE, re.MULTILINE)
    for option in re.findall(r"--(\w+)", line):
        assert client.config_get(option), option


def kind_of(key: str) -> str:
    """The table's word for a key."""
    name = key.removeprefix("aioq:{proj:default}:")
    name = re.sub(r"^(job|held|schedule|stats):.*", r"\1:", name)
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
