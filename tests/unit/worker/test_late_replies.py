"""What a claim brings after the lease was lost under which it was made."""

import pytest

from aioq import App
from aioq.store.contract import Claim
from tests.unit.kit import turns, until, within

pytestmark = pytest.mark.anyio

app = App("late", url="redis://nowhere", concurrency=5, lease=8)
begun: list[int] = []


@app.task
async def note(number: int) -> int:
    begun.append(number)
    return number


async def test_a_job_that_was_claimed_under_a_lost_lease_is_not_run_under_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a SIGSTOP: the loss may be read before the reply to the claim."""
    async with app.test() as session:
        assert await within(await note.send(-1)) == -1  # so it has begun
        begun.clear()
        (worker,) = session._workers
        duties = worker._duties
        store = duties._store
        claim, replies = store.claim, list[Claim]()

        async def claim_and_lose(queue: str, worker_id: str, *args: object, **kwargs: object) -> Claim:
            reply = await claim(queue, worker_id, *args, **kwargs)  # pyright: ignore[reportArgumentType] - passed on
            if reply.jobs and not replies:
                replies.append(reply)
                duties._lost(queue, worker_id)
            return reply

        monkeypatch.setattr(store, "claim", claim_and_lose)
        await note.send(1)
        await until(lambda: replies)
        await turns()
        assert begun == []
        assert duties.slots.free_for("default") == 5
