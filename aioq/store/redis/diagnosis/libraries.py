"""The function libraries that other versions of aioq have left at a server: nothing ever deletes one."""

import re
from collections.abc import Iterable

from redis.exceptions import ResponseError

from aioq.store.diagnosis import Check
from aioq.store.redis.diagnosis.examination import Examination
from aioq.store.redis.net.mode import as_dict
from aioq.store.redis.scripts import LIBRARY_NAME, library


async def check_libraries(examination: Examination) -> None:
    """List the libraries of aioq that this version does not use."""
    try:
        reply = await examination.link.command("FUNCTION", "LIST", "LIBRARYNAME", "aioq_*")
    except ResponseError as error:
        if "unknown command" not in str(error).lower():  # Redis 6.2 has no functions
            examination.cannot_look("which function libraries it has", error)
        return
    others = other_libraries(as_dict(each)[b"library_name"].decode() for each in reply)
    if others:
        examination.found(
            Check.LIBRARIES,
            f"has function libraries of other versions of aioq: {', '.join(others)}",
            "delete each: FUNCTION DELETE <name>; a program that still needs it loads it again",
        )


def other_libraries(names: Iterable[str]) -> list[str]:
    """Those names that are of aioq's libraries, but not of this version's."""
    own = {library(sharded=sharded).name for sharded in (False, True)}
    return sorted(name for name in names if re.fullmatch(LIBRARY_NAME, name) and name not in own)
