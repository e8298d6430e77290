"""How many slots jobs take, and which workers are too small for them."""

import pytest

from aioq import App, ConfigError
from aioq.config.settings import Settings
from aioq.wire.messages import encode_envelope
from aioq.worker.weights import Weights, check_weights, heavy, too_heavy
from tests.unit.kit import claimed

app = App("shop", url="redis://nowhere", routes={"video.*": "video"})


@app.task(name="mail")
async def mail() -> None: ...


@app.task(name="render", queue="video", slots=4)
async def render() -> None: ...


@app.task(name="video.cut", slots=2)
async def cut() -> None: ...


TASKS = {task.name: task for task in (mail, render, cut)}
SETTINGS = Settings(name="shop", routes={"video.*": "video"})


def test_the_task_in_the_call_says_how_many_slots_a_job_takes():
    weights = Weights(TASKS)
    calls = {name: encode_envelope(name, [], {}, None) for name in ("mail", "render", "video.cut", "unknown")}
    found = {name: weights.of(claimed(call)) for name, call in calls.items()}
    assert found == {"mail": 1, "render": 4, "video.cut": 2, "unknown": 1}
    assert weights.of(claimed(b"?")) == 1
    assert heavy(TASKS) == {"render": 4, "video.cut": 2}


@pytest.mark.parametrize(
    ("queues", "total", "queue_slots", "words"),
    [
        (["video"], 4, {}, ""),
        (["video"], 3, {}, "task 'render' takes 4 slots (slots=4), and this worker has 3 (concurrency)"),
        (["video"], 1, {}, "task 'render' takes 4 slots (slots=4), and this worker has 1 (concurrency)"),
        (["mail"], 1, {}, ""),
        (["mail", "video"], 9, {"mail": 1}, ""),
        (
            ["mail", "video"],
            9,
            {"video": 3},
            "task 'render' takes 4 slots (slots=4), and jobs of its queue 'video' may take 3 of this worker "
            "(-q video=3)",
        ),
    ],
)
def test_a_worker_must_have_the_slots_of_the_tasks_of_its_queues(
    queues: list[str], total: int, queue_slots: dict[str, int], words: str
):
    assert too_heavy(TASKS, SETTINGS, queues, total, queue_slots) == words
    if words:
        with pytest.raises(ConfigError, match="give it more slots, or let another worker serve that queue"):
            check_weights(TASKS, SETTINGS, queues, total, queue_slots)
    else:
        check_weights(TASKS, SETTINGS, queues, total, queue_slots)
