"""The bare loops with what a job queue must keep: a record for each job, a fenced claim and settle, a result.

The worker runs the jobs of a claimed batch one after the other and settles them with one call. There is no asyncio
task for each job, no timeout, no log, no lease and no waiter.
"""

import asyncio
from hashlib import sha1
from typing import Any

from benchmarks import work
from benchmarks.contract import Setup
from benchmarks.peers.bare import GROUP, LANE, Bare, Connection

SETUP = Setup.read()
RESULT_TTL_MS = 86_400_000

ENQUEUE = """
for i = 1, #ARGV do
  local id = ARGV[i]
  if redis.call('EXISTS', 'job:' .. id) == 0 then
    redis.call('HSET', 'job:' .. id, 'job', id, 'state', 'queued')
    redis.call('XADD', KEYS[1], '*', 'job', id)
  end
end
"""

CLAIM = """
local reply = {}
local got = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
if not got then return reply end
local passed = {}
for i, entry in ipairs(got[1][2]) do
  local id = entry[2][2]
  local key = 'job:' .. id
  local claim = redis.call('HINCRBY', key, 'claim', 1)
  redis.call('HSET', key, 'state', 'running', 'worker', ARGV[2])
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = id, redis.call('HGET', key, 'job'), claim
  passed[i] = entry[1]
end
redis.call('XACK', KEYS[1], ARGV[1], unpack(passed))
redis.call('XTRIM', KEYS[1], 'MINID', '~', passed[#passed])
return reply
"""

SETTLE = """
for i = 3, #ARGV, 3 do
  local key = 'job:' .. ARGV[i]
  local job = redis.call('HMGET', key, 'worker', 'claim')
  if job[1] == ARGV[1] and job[2] == ARGV[i + 1] then
    redis.call('HSET', key, 'state', 'succeeded', 'outcome', ARGV[i + 2])
    redis.call('HDEL', key, 'job')
    redis.call('PEXPIRE', key, ARGV[2])
  end
end
"""


class BareRecords(Bare):
    """Like `Bare`, but with records and results."""

    script = ENQUEUE
    module = __name__

    async def enqueue(self, arguments: list[str]) -> None:
        """One call, also for a single job."""
        await self.command("EVALSHA", self.sha, 1, LANE, *arguments)

    async def read(self, job_id: str) -> Any:
        """The outcome in the record."""
        found = await self._once(job_id)
        return None if found is None else int(found)

    async def _once(self, job_id: str) -> Any:
        # One connection has one command at a time, and many results are read at the same time.
        async with self._turn:
            return await self.command("HGET", f"job:{job_id}", "outcome")

    def __init__(self) -> None:
        super().__init__()
        self._turn = asyncio.Lock()


async def drain(command: Connection) -> None:
    """Claim, run, settle."""
    claim, settle = (sha1(script.encode()).hexdigest() for script in (CLAIM, SETTLE))
    await command.open()
    for script in (CLAIM, SETTLE):
        await command("SCRIPT", "LOAD", script)
    await command("XGROUP", "CREATE", LANE, GROUP, "0", "MKSTREAM")
    while True:
        jobs = await command("EVALSHA", claim, 1, LANE, GROUP, "worker", SETUP.concurrency)
        if not jobs:
            await asyncio.sleep(0.01)
            continue
        outcomes: list[Any] = []
        for start in range(0, len(jobs), 3):
            outcomes += (jobs[start], jobs[start + 2], await work.noop(int(jobs[start + 1])))
        await command("EVALSHA", settle, 1, LANE, "worker", RESULT_TTL_MS, *outcomes)


PEER = BareRecords()

if __name__ == "__main__":
    work.use_uvloop()
    asyncio.run(drain(Connection()))
