"""The first program: in this folder, `aioq worker quickstart:app` in one shell, `python quickstart.py` in another.

Nothing else is needed: both find the embedded server in `.aioq/`, unless `AIOQ_URL` names one.
"""

import asyncio

from aioq import App

app = App("quickstart")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


async def main() -> None:
    handle = await add.send(1, 2)  # returns once the server has the job
    print(await handle)  # 3


if __name__ == "__main__":
    asyncio.run(main())
