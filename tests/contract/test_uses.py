"""Each script says in its header which keys it reads and writes, and on which channels it publishes (`USES:`).

Held twice: which keys there are, against all that the script can come to by its text; how they are used, against
what a server is asked for.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aioq.store.contract import Limits
from aioq.store.redis import RedisStore
from aioq.store.redis.scripts import commands, library, names_in, script, source
from tests.contract.kit import LONG
from tests.contract.test_functions import NAMES, tour
from tests.servers import Server

USES = re.compile(r"^-- USES: ((?:.+\n)(?:--   .+\n)*)", re.MULTILINE)
READING = {"EXISTS", "GET", "MGET", "PTTL", "HGET", "HGETALL", "HMGET", "HRANDFIELD", "SRANDMEMBER", "SSCAN"}
READING |= {"XINFO", "XPENDING", "XRANGE", "ZCARD", "ZCOUNT", "ZMSCORE", "ZRANDMEMBER", "ZRANGE", "ZRANGEBYSCORE"}
READING |= {"ZREVRANGEBYSCORE", "ZSCAN", "ZSCORE"}
LANES = {"high", "normal", "low"}


def uses(name: str) -> dict[str, set[str]]:
    """What a script's header says: what is read, written, published on."""
    found = USES.search(source(f"commands/{name}"))
    assert found, f"{name}.lua does not say what it uses"
    words = found[1].replace("\n--  ", "").strip()
    return {how: set(rest.split(", ")) for how, _, rest in (part.partition(" ") for part in words.split("; "))}


def named() -> dict[str, str]:
    """What `lib/keys.lua` defines, and the key or channel that each returns."""
    text = source("lib/keys")
    found = dict(re.findall(r"function (\w+_(?:key|channel))\(q, \w+\).*?':([a-z]+):'", text))
    for names, keys in re.findall(r"^local ([A-Z, ]+) = ((?:':[a-z]+'(?:, )?)+)$", text, re.MULTILINE):
        found |= dict(zip(names.split(", "), re.findall(r":([a-z]+)", keys), strict=True))
    return found | {"lane_key": "lanes"}


CHANNELS = {"worker_channel", "dispatch_channel"}


@pytest.mark.parametrize("name", commands())
def test_a_header_names_all_that_the_script_can_come_to(name: str) -> None:
    reached = names_in(script(name).text.decode())
    used = {each: key for each, key in named().items() if each in reached and _is_used(each, name)}
    keys = {key for each, key in used.items() if each not in CHANNELS}
    channels = {key for each, key in used.items() if each in CHANNELS}
    channels |= {"waiter"} if "Results.send" in reached else set()

    said = uses(name)
    assert said.get("reads", set()) | said.get("writes", set()) == keys
    assert said.get("publishes", set()) == channels


def _is_used(each: str, name: str) -> bool:
    """A definition may have several names, of which the script uses some."""
    return len(re.findall(rf"\b{each}\b", script(name).text.decode())) > 1


@pytest.mark.anyio
@pytest.mark.parametrize("server_name", NAMES)
async def test_a_header_says_how_what_a_server_is_asked_for_is_used(
    server_name: str, start_server: Callable[..., Server]
) -> None:
    server = start_server(server_name)
    store = RedisStore("shop", server.url, shown_url="-", limits=Limits(lease_ms=LONG))
    with listening(server) as seen:
        await tour(store, "mail")
        await store.close()

    assert {name for name, _, _ in seen} >= set(commands()) - {"hold", "held", "schedule_pass"}
    for name, how, what in seen:
        assert what in uses(name).get(how, ()), f"{name}.lua {how} {what}"


@contextmanager
def listening(server: Server) -> Iterator[set[tuple[str, str, str]]]:
    """What each command does with which keys while the block runs."""
    seen: set[tuple[str, str, str]] = set()
    with server.client() as client, client.monitor() as monitor:
        thread = threading.Thread(target=_listen, args=(monitor, seen))
        thread.start()
        yield seen
        with server.client() as other:
            other.echo("over")
        thread.join()


def _listen(monitor: Any, seen: set[tuple[str, str, str]]) -> None:
    commands_of = {function: name for name, function in library().functions.items()}
    running = ""
    for said in monitor.listen():
        words = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', said["command"])
        command, *args = [quoted or bare for quoted, bare in words]
        if command.upper() == "ECHO":
            return
        if said["client_type"] != "lua":
            running = commands_of.get(args[0], "") if command.upper() == "FCALL" else ""
        elif running:
            seen |= {(running, how, what) for how, what in _used_by(command.upper(), args)}


def _used_by(command: str, args: list[str]) -> Iterator[tuple[str, str]]:
    if command in {"TIME", "PUBSUB"}:
        return
    how = "publishes" if command == "PUBLISH" else "reads" if command in READING else "writes"
    for arg in args[:1] if command == "PUBLISH" else args:
        found = re.match(r"aioq:\{[^}]*\}:([a-z]+)", arg)
        if found:
            yield how, "lanes" if found[1] in LANES else found[1]
