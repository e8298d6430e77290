"""Files of tests are handed out from both ends of the queue."""

from types import SimpleNamespace
from typing import Any

from tests.handing_out import FromBothEnds

FILES = {"long.py": 4, "waits.py": 3, "computes.py": 3, "short.py": 4}


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


def test_every_second_process_gets_files_from_the_end() -> None:
    options: Any = SimpleNamespace(
        getvalue=lambda _: ["popen"] * 2, option=SimpleNamespace(loadscopereorder=False)
    )
    queue, nodes = FromBothEnds(options), [Node(0), Node(1)]
    tests = [f"{file}::test_{number}" for file, count in FILES.items() for number in range(count)]

    def files(node: Node) -> list[str]:
        return list(dict.fromkeys(tests[index].partition("::")[0] for index in node.given))

    for each in nodes:
        node: Any = each
        queue.add_node(node)
        queue.add_node_collection(node, tests)
    queue.schedule()
    assert [files(node) for node in nodes] == [["long.py"], ["short.py"]]
    for each in nodes:
        node = each
        for index in each.given[:2]:
            queue.mark_test_complete(node, index)

    assert [files(node) for node in nodes] == [["long.py", "waits.py"], ["short.py", "computes.py"]]
    assert sorted(nodes[0].given + nodes[1].given) == list(range(len(tests)))
