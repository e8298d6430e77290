"""Files of tests are handed out from both ends of the queue."""

from types import SimpleNamespace
from typing import Any

from tests.handing_out import FromBothEnds

FILES = {"long.py": 4, "waits.py": 4, "meets.py": 3, "computes.py": 3, "short.py": 4}


class Node:
    """A process that runs tests, as far as it is known to who hands them out."""

    def __init__(self, number: int) -> None:
        self.gateway = SimpleNamespace(id=f"gw{number}")
        self.shutting_down = False
        self.given: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def test_every_third_process_gets_files_from_the_end() -> None:
    options: Any = SimpleNamespace(
        getvalue=lambda _: ["popen"] * 3, option=SimpleNamespace(loadscopereorder=False)
    )
    queue, nodes = FromBothEnds(options), [Node(number) for number in range(3)]
    tests = [f"{file}::test_{number}" for file, count in FILES.items() for number in range(count)]

    def files(node: Node) -> list[str]:
        return list(dict.fromkeys(tests[index].partition("::")[0] for index in node.given))

    for each in nodes:
        node: Any = each
        queue.add_node(node)
        queue.add_node_collection(node, tests)
    queue.schedule()
    assert [files(node) for node in nodes] == [["long.py"], ["waits.py"], ["short.py"]]
    for each in (nodes[0], nodes[2]):
        node = each
        for index in each.given[:2]:
            queue.mark_test_complete(node, index)

    assert [files(node) for node in nodes] == [["long.py", "meets.py"], ["waits.py"], ["short.py", "computes.py"]]
    assert sorted(index for node in nodes for index in node.given) == list(range(len(tests)))
