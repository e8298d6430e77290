"""Each script says in its header which keys it reads and writes, and on which channels it publishes (`USES:`).

`uses.py` works that out from the script's text, and writes it. It is held against the names that the text has, and
against what a server is asked for.
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
from tests.contract.uses import KEYLESS, key_names, usage, way_of, with_header
from tests.servers import Server

LANES = {"high", "normal", "low", "aside"}


@pytest.mark.parametrize("name", commands())
def test_a_header_says_what_the_script_uses(name: str) -> None:
    text = source(f"commands/{name}")
    assert text == with_header(name, text), "its header is wrong: `make uses` writes it anew"


@pytest.mark.parametrize("damage", ["", "-- USES: writes everything\n", "-- USES: reads job,\n--   body\n"])
def test_a_header_that_is_missing_or_wrong_is_written_anew(damage: str) -> None:
    for name in commands():
        text = source(f"commands/{name}")
        damaged = re.sub(r"^-- USES: .+\n(--   .+\n)*", damage, text, count=1, flags=re.MULTILINE)
        assert damaged != text
        assert with_header(name, damaged) == text


@pytest.mark.parametrize("name", commands())
def test_every_key_that_the_text_names_is_used(name: str) -> None:
    """Else the way of a key to the server was lost sight of, such as through what a function returns."""
    text = script(name).text.decode()
    # A definition may have several names, of which the script uses some: it names these elsewhere too.
    looked_for = names_in(text) & {*key_names(), "Results.send"}
    named = {each for each in looked_for if re.search(rf"(?<!function )\b{re.escape(each)}\b(?! =)", text)}
    waiters = {"waiter"} if "Results.send" in named else set[str]()
    assert {what for _, what in usage(name)} == waiters | {
        key_names()[each] for each in named & key_names().keys()
    }


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
        assert (how, what) in usage(name), f"{name}.lua {how} {what}"


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
    if command in KEYLESS:
        return
    how = way_of(command)
    for arg in args[:1] if how == "publishes" else args:
        found = re.match(r"aioq:\{[^}]*\}:([a-z]+)", arg)
        if found:
            yield how, "lanes" if found[1] in LANES else found[1]
