"""Wait for jobs that somebody else has sent, and print their results: `python result.py JOB_ID ...`."""

import asyncio
import sys

from proj.app import app


async def main(job_ids: list[str]) -> None:
    async with app:
        for job_id in job_ids:
            print(await app.handle(job_id).result(timeout=10))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
