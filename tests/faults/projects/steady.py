"""The tasks of `test_server_errors.py`. Each run leaves a line in the ledger when it starts and when it ends."""

import asyncio
import os

from aioq import App

app = App()


def note(ledger: str, number: int, what: str) -> None:
    """One write of one short line: lines of several jobs and processes do not mix."""
    with open(ledger, "a") as lines:
        lines.write(f"{number} {what}\n")


@app.task
async def tick(ledger: str, number: int) -> int:
    note(ledger, number, "start")
    note(ledger, number, "end")
    return number


@app.task
async def hold(ledger: str, number: int, gate: str) -> int:
    """Run until another process opens the gate."""
    note(ledger, number, "start")
    while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - another process opens it
        await asyncio.sleep(0.05)
    note(ledger, number, "end")
    return number
