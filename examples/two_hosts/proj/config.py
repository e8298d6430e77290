"""The settings. `AIOQ_URL`, `AIOQ_CONCURRENCY`, ... in a host's environment win over these values."""

name = "proj"
url = "redis://localhost:6379/0"  # for one host; on two, each sets AIOQ_URL
imports = ["proj.task1", "proj.task2"]  # the worker loads these; a host that only sends does not need them
result_ttl = 3600  # seconds a result can be fetched; a day by default
timezone = "Asia/Shanghai"  # of the cron lines below
schedules = {  # any worker keeps the clock; each tick is made once, however many workers there are
    "add-every-30-seconds": {"task": "proj.task1.add", "args": (5, 8), "every": 30},
    "multiply-in-the-morning": {"task": "proj.task2.multiply", "args": (4, 7), "cron": "42 9 * * mon-fri"},
}
shutdown_timeout = 10  # seconds that running jobs may take to end when the worker is stopped
