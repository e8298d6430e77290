"""How many items leave together, so that one half is under way while the other is made ready."""

FEW = 8
"""Fewer items are not worth a flush of their own: halves of 5 took as long as 10 at once, and more CPU; halves of
10 took two thirds as long as 20 at once (measured)."""


class Pace:
    """Finds the size of a batch that leaves at once, before the event loop has had its turn.

    Where those who are answered send again at once, it is half of the items that are held, so that the server has
    one half to work on while this process prepares the other. Where they go on to something else, as those do who
    wait for their job's result, smaller batches would only make more calls.

    Args:
        most: the largest size, and that of the beginning.

    Attributes:
        size: that size now.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._crowd = 2 * most
        self.size = most

    def learn(self, answered: int, more: int, held: int) -> None:
        """Take into account what came after a batch; larger numbers of items are forgotten by and by.

        Args:
            answered: the items of the batch.
            more: the items that were added in the turn in which those who waited for the batch went on.
            held: the items that have no reply after that turn.
        """
        self._crowd = max(held, self._crowd - self._crowd // 8) if 2 * more >= answered else 2 * self._most
        self.size = min(max(self._crowd // 2, FEW), self._most)
