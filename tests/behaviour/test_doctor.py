"""`aioq doctor`: what it finds wrong with real servers, and what it says to do."""

import contextlib
import re
from collections.abc import Callable

import pytest
import redis

from tests.behaviour.kit import Project, until
from tests.behaviour.pages import alike, held_by, shown_by
from tests.behaviour.typing_pages import Session
from tests.clusters import Cluster
from tests.databases import Database
from tests.records import put_record
from tests.sentinels import Sentinels
from tests.servers import Login, Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60), pytest.mark.long(seconds=15)]

TASKS = """
from aioq import App

app = App()


async def nothing() -> None:
    pass


for queue in ("default", "mail"):
    app.task(name=f"nothing.{queue}", queue=queue)(nothing)
"""


@pytest.fixture
def project(project: Project, redis_server: Database) -> Project:
    """An empty project whose server has no library of another test: functions outlive their keys."""
    with redis_server.client() as client, contextlib.suppress(redis.ResponseError):  # 6.2 has no functions
        client.function_flush()
    return project


async def doctor(project: Project, **settings: str) -> tuple[int, list[str], str]:
    """Run `aioq doctor`: exit code, the lines that it printed below those of the servers, its error."""
    project.write("shop.py", TASKS)
    process = project.python("-m", "aioq", "doctor", "shop:app", **settings)
    code = await process.ended()
    return code, [line for line in process.printed if "\t" not in line], process.log


async def test_nothing_is_wrong_with_a_server_that_keeps_all_its_jobs(project: Project) -> None:
    assert await doctor(project) == (0, ["nothing is wrong"], "")


def test_the_page_shows_what_is_printed(
    project: Project, start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = held_by("test_the_page_shows_what_is_printed")
    server = start_server(tcp=True, extra_args=["--save", "", "--maxmemory-policy", "allkeys-lru"])
    project.write("shop.py", TASKS)
    project.settings |= {"AIOQ_URL": server.url, "AIOQ_NAME": "shop"}
    for name, value in {**project.settings, "COLUMNS": "200", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.folder)
    project.load("shop")
    printed = Session().type("aioq doctor shop:app").strip("\n").replace(server.url, "redis://localhost:6379")
    assert comparable(printed) == comparable(shown_by(shown, "aioq doctor shop:app").strip("\n"))


async def test_a_pipe_gets_a_line_for_each_server(project: Project, redis_server: Database) -> None:
    project.write("shop.py", TASKS)
    process = project.python("-m", "aioq", "doctor", "shop:app")
    assert await process.ended() == 0, process.log
    line, summary = process.printed
    url, version, clock, queues = line.split("\t")
    assert url == redis_server.url
    assert re.fullmatch(r"\w+ \d+\.\d+\.\d+", version)
    assert re.fullmatch(r"-|[+-]\d+\.\d ms", clock)
    assert (queues, summary) == ("default, mail", "nothing is wrong")


def comparable(text: str) -> str:
    """The text without what differs from run to run."""
    return re.sub(r"[+-]\d+\.\d ms", "CLOCK", alike(text))


async def test_all_that_a_user_may_not_do_is_named_together(
    project: Project, start_server: Callable[..., Server]
) -> None:
    rules = "~aioq:* resetchannels +@all -@admin -@dangerous -xadd -zadd -time +client|id +client|unblock"
    server = start_server(login=Login("secret", user="shop", rules=rules))

    code, printed, log = await doctor(project, AIOQ_URL=server.url)

    assert (code, log) == (1, "")
    problem, advice, clock, *notes, summary = printed
    assert re.search(r"^permissions: .* refused a command to this user: ", problem)
    assert re.search(r"ACL SETUSER <user> .*\+zadd.*\+xadd.*'&aioq:\*'", advice)
    assert re.search(r"\+time\b", advice)
    assert re.search(r"^note: .* does not show its clock", clock)
    assert [re.search(r"^note: .* does not show whether it evicts keys", note) is not None for note in notes][:1]
    assert summary == "1 finding"
    assert "secret" not in "".join(printed)


async def test_keys_that_a_user_may_not_use_are_a_finding(
    project: Project, start_server: Callable[..., Server]
) -> None:
    server = start_server(login=Login("secret", user="shop", rules="~other:* &* +@all"))
    code, printed, _ = await doctor(project, AIOQ_URL=server.url)
    assert code == 1
    assert printed[0].startswith("permissions: ")
    assert "'~aioq:*'" in "".join(printed)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"AIOQ_URL": "redis://127.0.0.1:1"}, r"aioq: redis://127\.0\.0\.1:1 cannot be reached: .*"),
        ({"AIOQ_URL": "redis+cluster://127.0.0.1:1"}, r"aioq: .*no node answers: .*"),
    ],
    ids=["server", "cluster"],
)
async def test_a_server_that_is_away_cannot_be_looked_at(
    project: Project, settings: dict[str, str], problem: str
) -> None:
    code, printed, log = await doctor(project, **settings)
    assert (code, printed) == (2, [])
    assert re.fullmatch(problem, log)


async def test_a_node_of_a_cluster_is_no_server_by_itself(project: Project, cluster: Cluster) -> None:
    code, printed, _ = await doctor(project, AIOQ_URL=f"redis://127.0.0.1:{cluster.nodes[0].port}")
    assert code == 1
    assert re.search(r"^server: .* is a node of a cluster, ", printed[0])
    assert re.search(r"^  -> write redis\+cluster://127", printed[1])


async def test_each_node_of_a_cluster_is_looked_at(project: Project, cluster: Cluster) -> None:
    project.write("shop.py", TASKS)
    away = cluster.url.replace("redis+cluster://", "redis+cluster://127.0.0.1:1,")
    process = project.python("-m", "aioq", "doctor", "shop:app", AIOQ_URL=away)
    assert await process.ended() == 1, process.log
    printed = "\n".join(process.printed)
    for node in cluster.primaries:
        row = next(line for line in process.printed if line.startswith(f"redis://127.0.0.1:{node.port}\t"))
        for queue in ("default", "mail"):
            serves = cluster.node_of(cluster.slot_of(f"aioq:{{{project.name}:{queue}}}")).id == node.id
            assert (queue in row) == serves
    assert re.search(r"^reachability: redis://127\.0\.0\.1:1 cannot be reached: ", printed, re.MULTILINE)
    assert process.printed[-1] == "1 finding", printed


async def test_a_cluster_that_is_down_is_looked_at_all_the_same(
    project: Project, start_cluster: Callable[..., Cluster]
) -> None:
    cluster = start_cluster()
    for node in cluster.primaries:
        node.ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")  # as it is by default
    lost = cluster.node_of(cluster.slot_of(f"aioq:{{{project.name}:mail}}"))
    cluster.kill(lost)
    others = [node for node in cluster.primaries if node is not lost]
    await until(lambda: all("cluster_state:fail" in str(node.ask("CLUSTER", "INFO")) for node in others))

    code, printed, log = await doctor(project, AIOQ_URL=cluster.url)

    assert (code, log) == (1, "")
    text = "\n".join(printed)
    for node in others:
        assert re.search(
            rf"^slots: redis://127\.0\.0\.1:{node.port} serves no queue, because .* is fail$", text, re.MULTILINE
        )
    away = rf"^reachability: redis://127\.0\.0\.1:{lost.port} cannot be reached: .*\n  -> .* nobody serves .*mail$"
    assert re.search(away, text, re.MULTILINE)
    assert printed[-1] == "3 findings"


async def test_what_is_left_over_is_named(project: Project, start_server: Callable[..., Server]) -> None:
    """Unknown queues, keys of workers that are gone, what other versions have written, and their libraries."""
    server = start_server()
    base = f"aioq:{{{project.name}"
    old, has_functions = "aioq_0123456789abcdef", server.name != "redis-6.2"
    with server.client() as client:
        if has_functions:
            client.function_load(
                f"#!lua name={old}\nredis.register_function('{old}_info', function() return 1 end)"
            )
        put_record(client, f"{base}:gone}}:job:one", None)
        put_record(client, f"{base}:mail}}:job:two", b"\x93\x07\xa1x\x90")  # a call of version 7
        client.hset(f"{base}:mail}}:job:three", "state", "queued")
        client.sadd(f"{base}:mail}}:held:host-1-abcd-1", "two")
        client.set(f"{base}:mail}}:done:two", "")
        client.set("aioq:{other:x}:job:y", "")

    code, printed, log = await doctor(project, AIOQ_URL=server.url)

    assert (code, log) == (1, "")
    found = [" ".join(pair) for pair in zip(printed[:-1:2], printed[1::2], strict=True)]
    patterns = [
        rf"libraries: .*: {old}   -> delete each: FUNCTION DELETE <name>; ",
        rf"keys: .* no worker serves: gone \(1\)   -> .* --pattern '{re.escape(base)}:gone}}\*' ",
        r"keys: .* not registered: \S+:mail}:held:host-1-abcd-1   -> let a worker serve",
        r"format: .* names this version of aioq does not use: \S+:mail}:done:two ",
        r"format: .* newer version of aioq has written \(1 of the 3 that were read\), such as \S+:job:two ",
        r"format: .* cannot read \(1 of the 3 that were read\), such as \S+:job:three ",
    ]
    patterns = patterns if has_functions else patterns[1:]
    assert len(found) == len(patterns), found
    for text, pattern in zip(found, patterns, strict=True):
        assert re.match(pattern, text), text


async def test_a_queue_that_another_program_serves_is_not_left_over(project: Project) -> None:
    project.write("other.py", TASKS.replace('"mail"', '"others"'))
    worker = await project.ready_worker("other:app", "--queue", "others")
    await worker.saw("ready|│ host")
    assert (await doctor(project))[:2] == (0, ["nothing is wrong"])
    assert await worker.stop() == 0


async def test_each_sentinel_is_asked(project: Project, start_sentinels: Callable[..., Sentinels]) -> None:
    sentinels = start_sentinels()
    url = sentinels.url.replace("redis+sentinel://", "redis+sentinel://127.0.0.1:1,")
    code, printed, log = await doctor(project, AIOQ_URL=url)
    assert (code, log) == (1, "")
    assert re.match(r"reachability: sentinel 127\.0\.0\.1:1 cannot be reached: ", printed[0])
    assert printed[2:] == ["1 finding"]
