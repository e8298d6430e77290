"""Send two jobs and end at once: `python client.py`.

They are sent by name, so this host needs neither the tasks' code nor what they import.
"""

import asyncio

from proj.app import app


async def main() -> None:
    async with app:
        added = await app.send("proj.task1.add", 10, 20)
        multiplied = await app.send("proj.task2.multiply", 32, 32)
    print(f"add(10, 20) is job {added.id}")
    print(f"multiply(32, 32) is job {multiplied.id}")


if __name__ == "__main__":
    asyncio.run(main())
