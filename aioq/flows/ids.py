"""The ids of a flow's jobs: `<flow id>.<index>`, and `<flow id>.<index>~<run>` from the second run on.

The index of the node is written in base 36, with at least three letters: `x7Gq....00a` is the tenth one after the
first. So the id of a job tells which flow it belongs to, and the stores need no list of them.
"""

import re

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_NODE_ID = re.compile(r"(?P<flow>.+)\.(?P<index>[0-9a-z]{3,7})(?:~(?P<run>[1-9][0-9]{0,5}))?", re.DOTALL)
"""The word after the last dot of any other generated id has sixteen letters."""


def node_id(flow_id: str, index: int, run: int = 1) -> str:
    """The id of the job of a node, in its first run or in a later one."""
    text, rest = "", index
    while rest:
        rest, digit = divmod(rest, 36)
        text = _DIGITS[digit] + text
    name = f"{flow_id}.{text.rjust(3, '0')}"
    return name if run <= 1 else f"{name}~{run}"


def flow_of(job_id: str) -> tuple[str, int, int] | None:
    """The flow, the index and the run that a job's id names; None if it is no node's id.

    An id that a sender has chosen may look like one. So what matters is asked of the job's record.
    """
    match = _NODE_ID.fullmatch(job_id)
    if match is None:
        return None
    return match["flow"], int(match["index"], 36), int(match["run"] or 1)
