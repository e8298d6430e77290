"""What is seen of threads and tasks."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from aioq.worker import stacks as module
from aioq.worker.requests import ControlAnswer, encode_answer
from aioq.worker.stacks import WorkerStacks, take_stacks
from tests.unit.kit import turns

pytestmark = pytest.mark.anyio


async def innermost(gate: asyncio.Event) -> None:
    await gate.wait()


async def generated(gate: asyncio.Event) -> AsyncIterator[int]:
    await innermost(gate)
    yield 1


async def outer(gate: asyncio.Event) -> None:
    async for _ in generated(gate):
        pass


async def taken(*tasks: "asyncio.Task[None]") -> WorkerStacks:
    await turns()
    found = await asyncio.to_thread(take_stacks, asyncio.get_running_loop(), threading.get_ident(), 2.0)
    for task in tasks:
        task.cancel()
    return found


async def test_a_task_shows_where_it_waits_through_all_that_it_awaits() -> None:
    gate = asyncio.Event()
    task = asyncio.create_task(outer(gate), name="shop.add[1234]")
    found = await taken(task, asyncio.create_task(innermost(gate), name="Task-0"))

    assert found.tasks[0].name == "shop.add[1234]"  # jobs come first
    lines = [line for line in found.tasks[0].text.splitlines() if ", in " in line]
    assert [line.rpartition(" in ")[2] for line in lines] == ["outer", "generated", "innermost", "wait"]
    assert found.threads[0].name == "MainThread"
    assert any("take_stacks" in each.text for each in found.threads[1:])
    assert str(found).startswith("the event loop has been blocked for 2.0 s\n\nthread MainThread:\n")


async def test_a_task_that_runs_just_now_shows_where() -> None:
    loop, here, found = asyncio.get_running_loop(), threading.get_ident(), list[WorkerStacks]()

    async def runs() -> None:
        with ThreadPoolExecutor() as threads:
            found.append(threads.submit(take_stacks, loop, here).result())

    async def begins() -> None:
        await runs()

    await asyncio.create_task(begins(), name="shop.add[1234]")
    lines = [line for line in found[0].tasks[0].text.splitlines() if ", in " in line]
    assert [line.rpartition(" in ")[2] for line in lines][:2] == ["begins", "runs"]


async def test_there_is_room_for_so_many_in_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    tasks = [asyncio.create_task(outer(gate), name="n" * 200) for _ in range(600)]
    found = await taken(*tasks)
    assert (
        len(encode_answer(ControlAnswer(found))) < 1.2 * module.MOST_BYTES
    )  # with names, and what is around the texts
    assert found.left_out >= 100
    assert len(found.tasks) + found.left_out > 600
    assert str(found).endswith(f"... and {found.left_out} more")

    monkeypatch.setattr(module, "MOST_BYTES", 1)
    found = take_stacks(asyncio.get_running_loop(), threading.get_ident())
    assert [len(found.threads), len(found.tasks)] == [1, 0]
