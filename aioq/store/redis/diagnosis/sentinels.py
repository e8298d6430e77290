"""Whether each sentinel answers, knows the primary, and names the same one as the others."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping

from redis.exceptions import ResponseError

from aioq.store.diagnosis import Check, Finding
from aioq.store.redis.errors import CLIENT_ERRORS, translate
from aioq.store.redis.net.sentinel import ASK_TIMEOUT, Primary, shown
from aioq.store.redis.net.switches import Address

SentinelReply = tuple[Address | None, str] | Exception
"""The primary that a sentinel names (None for none) and why it could not replace it (empty if it could); or the
error with which the sentinel could not be asked."""


async def check_sentinels(primary: Primary) -> list[Finding]:
    """Ask all sentinels for the primary."""
    sentinels, name = primary.sentinels, str(primary.question[-1])
    answers = await asyncio.gather(*(_ask(primary, sentinel, name) for sentinel in sentinels))
    return sentinel_findings(dict(zip(map(shown, sentinels), answers, strict=True)), name)


async def _ask(primary: Primary, sentinel: Address, name: str) -> SentinelReply:
    try:
        async with asyncio.timeout(ASK_TIMEOUT):
            connection = await primary.open_sentinel(sentinel)
            try:
                connection.send(primary.question)
                reply = await connection.read()
                if reply is None:
                    return None, ""
                connection.send(("SENTINEL", "CKQUORUM", name))
                try:
                    await connection.read()
                    obstacle = ""
                except ResponseError as error:
                    obstacle = str(error) if "NOQUORUM" in str(error) else ""
                return (reply[0].decode(), int(reply[1])), obstacle
            finally:
                connection.close()
    except (*CLIENT_ERRORS, RuntimeError) as error:  # uvloop raises the latter when a transport was reset
        return error


def sentinel_findings(answers: Mapping[str, SentinelReply], name: str) -> list[Finding]:
    """What is wrong with the sentinels, by their answers."""
    named = Counter(answer[0] for answer in answers.values() if isinstance(answer, tuple) and answer[0])
    usual = named.most_common(1)[0][0] if named else None
    return [
        Finding(check, f"sentinel {sentinel}", problem, advice)
        for sentinel, answer in answers.items()
        for check, problem, advice in _wrong_with(answer, usual, name)
    ]


def _wrong_with(answer: SentinelReply, usual: Address | None, name: str) -> Iterator[tuple[Check, str, str]]:
    if isinstance(answer, Exception):
        text = str(translate(answer, "")).strip()
        yield Check.REACHABILITY, text, "start it, or take it out of the URL"
        return
    primary, obstacle = answer
    if primary is None:
        yield Check.SERVER, f"knows no primary {name!r}", "let it monitor that, or take it out of the URL"
    elif usual is not None and primary != usual:
        problem = f"names {shown(primary)} as the primary, most name {shown(usual)}"
        yield Check.SERVER, problem, "look again in a minute: a failover may be under way"
    if obstacle:
        yield Check.SERVER, f"could not replace the primary: {obstacle}", "start the sentinels that are missing"
