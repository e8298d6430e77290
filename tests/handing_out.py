"""Which file of tests each of the processes that run side by side gets next."""

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class FromBothEnds(LoadFileScheduling):
    """Hands out whole files: to every third process from the end of the queue, to the others from its beginning.

    The files at its beginning take long and mostly wait, those at its end mostly compute (`tests/conftest.py` puts
    them in that order). If all processes went from one end to the other, they would leave the processors idle for
    the first half of the time, and have to share them in the second. With three processes for each processor, one
    of them computes, from the beginning nearly to the end.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        if _number(node) % 3 == 2:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def _number(node: WorkerController) -> int:
    """Processes are called gw0, gw1, and so on."""
    return int(node.gateway.id.removeprefix("gw"))
