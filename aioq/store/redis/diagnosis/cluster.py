"""What concerns a cluster as a whole: pure, made of its topology and of which node serves which queue."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from aioq.errors import ServerError, ServerUnavailableError
from aioq.store.diagnosis import Check, Diagnosis, Finding, ServerReport
from aioq.store.redis.diagnosis.examination import finding_of, listed


def slot_findings(
    where: str, queues: Mapping[str, Sequence[str]], *, uncovered: int, stuck: Sequence[str]
) -> list[Finding]:
    """What is wrong with how slots and queues are spread over the nodes.

    Args:
        where: the cluster.
        queues: by node the App's queues that it serves; each serving node is there.
        uncovered: how many slots no node serves.
        stuck: the App's queues in these slots.
    """
    found: list[Finding] = []
    if uncovered:
        which = f", and so nobody serves {listed(stuck)}" if stuck else "; none of this App's queues is in them"
        problem = f"has {uncovered} slots that no node serves{which}"
        advice = "start the node that had them, or give them to others: redis-cli --cluster fix"
        found.append(Finding(Check.SLOTS, where, problem, advice))
    crowded = crowded_node(queues)
    if crowded is not None:
        total = sum(map(len, queues.values()))
        problem = f"has {len(queues[crowded])} of {total} queues on one node, {crowded}"
        advice = "move slots of some to other nodes (redis-cli --cluster reshard), or name queues otherwise"
        found.append(Finding(Check.SLOTS, where, problem, advice))
    return found


def crowded_node(queues: Mapping[str, Sequence[str]]) -> str | None:
    """The node that serves more than half of all queues, and at least two more than its share; None for none."""
    if not queues:
        return None
    total = sum(map(len, queues.values()))
    share = -(-total // len(queues))
    most = max(queues, key=lambda node: len(queues[node]))
    count = len(queues[most])
    return most if count > total / 2 and count >= share + 2 else None


def merged(
    nodes: Mapping[str, Sequence[str]], answers: Sequence[object], findings: Sequence[Finding]
) -> Diagnosis:
    """The diagnosis of a cluster.

    Args:
        nodes: the nodes that were asked, each with the App's queues that it serves.
        answers: by node its diagnosis, or the error with which it could not be checked; anything else means that
            it answers.
        findings: those about the cluster as a whole.

    Raises:
        ServerError: no node could be checked.
    """
    found, notes, servers = list(findings), list[str](), list[ServerReport]()
    for (node, queues), answer in zip(nodes.items(), answers, strict=True):
        if isinstance(answer, Diagnosis):
            servers += answer.servers
            found += answer.findings
            notes += answer.notes
        elif isinstance(answer, ServerError):
            found.append(_unreachable(node, queues, answer))
        elif isinstance(answer, BaseException):
            raise answer
    if not servers:
        raise next(answer for answer in answers if isinstance(answer, ServerError))
    return Diagnosis(servers, found, notes)


def _unreachable(node: str, queues: Sequence[str], error: ServerError) -> Finding:
    finding = finding_of(Check.REACHABILITY, node, error)
    if not isinstance(error, ServerUnavailableError):
        return finding
    if queues:
        return replace(
            finding, advice=f"start it, or promote a replica of it: until then nobody serves {listed(queues)}"
        )
    return replace(finding, advice="start it, or take it out of the cluster and the URL")
