"""Names from other job queues, each with the name of the same thing in aioq.

There is one table for all places where such a name may be written. Whoever adds an option or a setting checks here
whether its other names are listed.
"""

from enum import StrEnum
from typing import Any


class ApiPart(StrEnum):
    """The places where such a name may be written."""

    TASK = "an attribute of a task"
    APP = "an attribute of an App"
    HANDLE = "an attribute of a handle"
    JOB = "an attribute of the current job"
    OPTION = "an option of a task or a call"
    SCHEDULE = "an option of a schedule"
    SETTING = "a setting"
    RETRY = "an argument of Retry"
    COMMAND = "a command, or an option of `aioq worker`"
    PACKAGE = "a name of the package"


_SEND = "await task.send(...), in sync code task.send_sync(...)"
_SEND_WITH = "await task.options(...).send(...), in sync code task.options(...).send_sync(...)"
_SEND_LATER = "await task.options(delay=...).send(...), in sync code task.options(delay=...).send_sync(...)"
_SEND_NAMED = 'await app.send("name", ...), in sync code app.send_sync("name", ...)'
_CALL = "task.call(...), which app.send_many and schedules take"
_ATTEMPTS = "retry=Retry(attempts=...), where the first attempt counts too"
_TIMEOUT = "timeout=..., in seconds or as a timedelta"
_EXPIRY = "expires=..., in seconds from when the job is due, or a datetime with a time zone"
_ALWAYS = "always so: a job is acknowledged when it has ended, and runs again if its worker dies"
_CONTEXT = "current_job(), inside the task"
_RATE = 'limits=[Limit("name", by=..., concurrency=..., rate=...)]'
_URL = 'url="redis://..." (AIOQ_URL in the environment)'
_NO_BACKEND = "not needed: results are in the same server as the jobs (url=...)"
_SERIALIZER = (
    "not needed: calls and results are MessagePack, with the types of the annotations and of app.register_type"
)
_LIFESPAN = "@app.lifespan"
_STATE = "await handle.status(), in sync code handle.status_sync()"
_RESULT = "await handle, or await handle.result(timeout=...); in sync code handle.result_sync(timeout=...)"
_CANCEL = "await handle.cancel(), in sync code handle.cancel_sync()"
_INFO = "await handle.info(), in sync code handle.info_sync()"

_HOOKS = "middleware: its `run` is around each run, `settled` after each attempt"
_SCHEDULES = '@app.cron("*/5 * * * *") or @app.every(seconds), above the task'
_CRON = 'a cron line: cron="*/5 * * * mon-fri" is minute, hour, day of month, month, day of week'
_EVERY = "every=..., in seconds or as a timedelta: every=timedelta(hours=1)"
_TIMING = 'every=30, or cron="*/5 * * * *", whose fields are minute, hour, day of month, month, day of week'
_APP = 'app = App("shop")'
_WORKER = "`aioq worker shop.tasks:app`, a command"
_EVENTS = "aioq events, aioq top"
_TOGETHER = 'a.call(1) | b, group(a.call(1), b.call(2)) | c, or app.flow("name")'

WORDS: dict[ApiPart, dict[str, str]] = {
    ApiPart.TASK: {
        **dict.fromkeys(("perform_async", "perform_later"), _SEND),
        **dict.fromkeys(("perform_in", "call_later"), _SEND_LATER),
        "signature": _CALL,
        "message_with_options": "task.options(...).call(...)",
        **dict.fromkeys(
            ("AsyncResult", "get_result"), "task.handle(job_id), or what `await task.send(...)` returns"
        ),
        **dict.fromkeys(("revoke", "cancel", "abort"), "await task.handle(job_id).cancel()"),
        **dict.fromkeys(("on_success", "on_failure", "on_retry"), _HOOKS),
        **dict.fromkeys(("delay", "enqueue", "kiq", "defer", "defer_async", "send_async", "push"), _SEND),
        "apply_async": _SEND_WITH,
        "send_with_options": _SEND_WITH,
        "kicker": "task.options(...)",
        "configure": "task.options(...)",
        "set": "task.options(...)",
        **dict.fromkeys(("enqueue_in", "enqueue_at", "schedule", "schedule_by_time"), _SEND_LATER),
        **dict.fromkeys(("s", "si", "subtask", "message"), _CALL),
        **dict.fromkeys(("map", "starmap", "chunks"), "await task.send_many([(1,), (2,)])"),
        **dict.fromkeys(("apply", "run", "fn", "call_local"), "a plain call, task(...), which runs it here"),
        "retry": "raise Retry(...), inside the task",
        "request": _CONTEXT,
        "update_state": "current_job().progress(...), inside the task",
        "backend": _NO_BACKEND,
        "max_retries": _ATTEMPTS,
        "default_retry_delay": "retry=Retry(delay=..., factor=...)",
        "delay_on_commit": f"{_SEND}, after the commit",
        "apply_async_on_commit": f"{_SEND}, after the commit",
    },
    ApiPart.APP: {
        **dict.fromkeys(("broker", "connection", "redis", "pool"), "not needed: the App opens its own (url=...)"),
        **dict.fromkeys(("backend", "with_result_backend"), _NO_BACKEND),
        "with_broker": _URL,
        **dict.fromkeys(
            ("control", "revoke"), "await app.handle(job_id).cancel(), and `aioq check` for its workers"
        ),
        **dict.fromkeys(("signals", "add_event_handler", "before_process", "after_process"), _HOOKS),
        **dict.fromkeys(
            ("on_after_configure", "on_after_finalize"),
            f"app.schedule(...), beside the tasks; {_LIFESPAN} for what a worker opens",
        ),
        **dict.fromkeys(("current_task", "current_worker_task"), _CONTEXT),
        "signature": 'app.by_name("name").call(...)',
        "GroupResult": "app.handle(job_id) of each job, and await gather(*handles)",
        **dict.fromkeys(("beat_schedule", "cron_job"), _SCHEDULES),
        **dict.fromkeys(("shared_task", "process"), "@app.task"),
        "Task": "@app.task; middleware is what all tasks have in common",
        "get_queue": "@app.task(queue=...) or task.options(queue=...)",
        **dict.fromkeys(("group", "chord", "chain"), _TOGETHER),
        **dict.fromkeys(("send_task", "enqueue", "enqueue_job", "enqueue_call"), _SEND_NAMED),
        "conf": "app.settings, which the constructor takes",
        "config_from_object": 'App.from_config("shop.config")',
        "autodiscover_tasks": 'imports=["shop.tasks"]',
        **dict.fromkeys(("periodic_task", "periodic", "scheduled"), "@app.cron(...) or @app.every(...)"),
        "add_periodic_task": "app.schedule(...)",
        **dict.fromkeys(("register_task", "actor", "register", "job"), "@app.task"),
        **dict.fromkeys(("AsyncResult", "get_job", "fetch_job", "job_status"), "app.handle(job_id)"),
        **dict.fromkeys(("on_startup", "on_shutdown", "startup", "shutdown", "on_event"), _LIFESPAN),
        **dict.fromkeys(("add_middleware", "with_middlewares", "middlewares"), "App(middleware=[...])"),
        **dict.fromkeys(("worker", "run", "start", "worker_main", "run_worker"), _WORKER),
        "close": "await app.aclose(), or async with app",
    },
    ApiPart.HANDLE: {
        **dict.fromkeys(("get_result", "job_result"), _RESULT),
        **dict.fromkeys(("success", "is_ready"), _STATE),
        "forget": "not needed: a result is gone after result_ttl seconds",
        **dict.fromkeys(("date_done", "name", "get_progress", "refresh"), "await handle.info()"),
        **dict.fromkeys(("children", "collect", "results"), "the handles you keep: await gather(*handles)"),
        **dict.fromkeys(("then", "on_ready"), "await handle, and go on"),
        "message_id": "handle.id",
        **dict.fromkeys(("get", "wait", "wait_result", "return_value", "join"), _RESULT),
        **dict.fromkeys(
            ("state", "ready", "done", "successful", "failed", "is_finished", "is_failed", "get_status"), _STATE
        ),
        **dict.fromkeys(("revoke", "abort", "terminate"), _CANCEL),
        "task_id": "handle.id",
        "job_id": "handle.id",
        **dict.fromkeys(("result_info", "traceback", "exc_info", "meta"), _INFO),
    },
    ApiPart.JOB: {
        **dict.fromkeys(("retry", "requeue", "defer"), "raise Retry(...)"),
        **dict.fromkeys(("retries", "job_try", "tries", "try_count"), "job.attempt, 1 for the first"),
        **dict.fromkeys(("max_retries", "max_tries"), "job.max_attempts, in which the first counts too"),
        "request": "the job itself: job.id, job.attempt, job.headers, ...",
        **dict.fromkeys(("task_id", "job_id", "message_id", "key"), "job.id"),
        **dict.fromkeys(("name", "task_name", "function", "func_name"), "job.task, its name"),
        **dict.fromkeys(
            ("update_state", "set_progress", "update_progress", "send_progress", "meta"),
            "job.progress(done, total, message)",
        ),
        **dict.fromkeys(("logger", "get_logger"), "job.log"),
        **dict.fromkeys(("is_aborted", "is_revoked", "aborted", "cancelled"), "job.cancel_requested"),
        **dict.fromkeys(("args", "kwargs"), "the arguments of the task's function"),
        **dict.fromkeys(("enqueue_time", "enqueued_at", "created_at"), "job.sent_at"),
        **dict.fromkeys(("redis", "pool", "resources", "ctx"), "job.state, what the lifespan yielded"),
        **dict.fromkeys(("labels", "correlation_id"), "job.headers, strings"),
        **dict.fromkeys(("timelimit", "timeout"), "job.deadline, or job.time_left()"),
        **dict.fromkeys(("fail", "reject"), 'raise Fail("why")'),
        **dict.fromkeys(("cancel", "abort", "ignore"), 'raise Cancel("why")'),
    },
    ApiPart.SCHEDULE: {
        **dict.fromkeys(("minute", "hour", "second", "day", "month", "weekday"), _CRON),
        **dict.fromkeys(("day_of_week", "day_of_month", "month_of_year"), _CRON),
        **dict.fromkeys(("seconds", "minutes", "hours", "days", "weeks", "interval", "period"), _EVERY),
        **dict.fromkeys(("schedule", "run_every", "crontab", "cron_expression", "spec", "when"), _TIMING),
        **{
            option: f"@app.task({option}=...), task.options({option}=...).call(...), "
            f'in settings "options": {{"{option}": ...}}'
            for option in ("queue", "priority", "timeout", "retry", "headers", "result_ttl")
        },
        **dict.fromkeys(("args", "kwargs"), "in the call: task.call(...)"),
        **dict.fromkeys(("timezone", "time_zone"), 'tz="Europe/Berlin"'),
        **dict.fromkeys(("start_date", "start_at", "begin"), "start=..., a datetime with a time zone"),
        **dict.fromkeys(("until", "end_date", "end_at", "expires"), "end=..., a datetime with a time zone"),
        **dict.fromkeys(("limit", "count", "times", "repeat"), "max_runs=..."),
        **dict.fromkeys(("coalesce", "misfire_grace_time", "catchup"), 'misfire="skip", "last" or "all"'),
        **dict.fromkeys(("max_instances", "unique", "no_overlap"), 'overlap="allow", "skip" or "one"'),
        **dict.fromkeys(("enabled", "paused"), "await app.schedules.pause(id), or `aioq schedules pause`"),
        **dict.fromkeys(("id", "name", "key"), "schedule_id=..., or the first argument of app.schedule"),
        "relative": "start=..., at which the grid of every=... begins",
        "run_at_startup": "@app.lifespan, or await app.schedules.run_now(id)",
    },
    ApiPart.OPTION: {
        **dict.fromkeys(("cron", "crontab", "schedule", "run_every", "minute", "hour", "second"), _SCHEDULES),
        **dict.fromkeys(
            ("seconds", "minutes", "hours", "days", "day", "weekday", "month", "run_at_hour"), _SCHEDULES
        ),
        **dict.fromkeys(("day_of_week", "day_of_month", "month_of_year"), _SCHEDULES),
        **dict.fromkeys(
            ("unique_for", "singleton", "dedupe", "deduplicate"),
            "unique=Unique(...), with which only one job of a key is there at a time",
        ),
        **dict.fromkeys(("concurrency", "max_concurrency", "concurrency_limit"), _RATE),
        **dict.fromkeys(("depends_on", "wait_for", "chord"), _TOGETHER),
        **dict.fromkeys(("callback", "callbacks"), _HOOKS),
        **dict.fromkeys(("correlation_id", "description"), "headers={...}, strings"),
        "ignore_results": "result_ttl=0",
        "schedule_by_time": "eta=..., a datetime with a time zone",
        "retry_on_error": "retry=..., the number of attempts or a Retry(...)",
        "heartbeat": "lease=..., of the App: workers renew it by themselves",
        "attempts": "retry=..., the number of attempts or a Retry(...)",
        **dict.fromkeys(("max_retries", "retries", "max_tries", "tries", "max_attempts"), _ATTEMPTS),
        **dict.fromkeys(("autoretry_for", "retry_for", "retry_when", "retry_on"), "retry=Retry(on=(...))"),
        **dict.fromkeys(("dont_autoretry_for", "throws"), "retry=Retry(never=(...))"),
        **dict.fromkeys(
            ("default_retry_delay", "retry_delay", "retry_backoff", "min_backoff", "backoff"),
            "retry=Retry(delay=..., factor=...)",
        ),
        **dict.fromkeys(("retry_backoff_max", "max_backoff", "retry_max_delay"), "retry=Retry(max_delay=...)"),
        "retry_jitter": "retry=Retry(jitter=...)",
        "retry_kwargs": "retry=Retry(...)",
        "retry_policy": "retry=Retry(...)",
        "retry_delays": "retry=Retry(delays=[...])",
        **dict.fromkeys(("countdown", "defer_by", "_defer_by", "in_", "wait"), "delay=..., in seconds"),
        **dict.fromkeys(
            ("at", "run_at", "when", "scheduled", "schedule_at", "defer_until", "_defer_until"),
            "eta=..., a datetime with a time zone",
        ),
        **dict.fromkeys(("_expires", "max_age", "ttl", "expire", "discard_after"), _EXPIRY),
        **dict.fromkeys(("task_id", "_job_id", "message_id", "idempotency_key", "key"), "job_id=..."),
        **dict.fromkeys(("queue_name", "_queue_name", "routing_key", "exchange"), "queue=..."),
        **dict.fromkeys(("actor_name", "task_name", "func_name"), "name=..."),
        **dict.fromkeys(
            ("time_limit", "soft_time_limit", "job_timeout", "execution_timeout", "max_runtime"), _TIMEOUT
        ),
        **dict.fromkeys(("acks_late", "reject_on_worker_lost", "acks_on_failure_or_timeout"), _ALWAYS),
        "ignore_result": "result_ttl=0",
        **dict.fromkeys(("keep_result", "result_expires", "failure_ttl"), "result_ttl=..., in seconds"),
        **dict.fromkeys(("store_results", "track_started", "keep_result_forever"), "always so (result_ttl=...)"),
        **dict.fromkeys(("bind", "pass_context", "context"), _CONTEXT),
        **dict.fromkeys(("rate_limit", "throttle", "limit"), _RATE),
        **dict.fromkeys(("serializer", "compression"), _SERIALIZER),
        **dict.fromkeys(("labels", "meta", "metadata"), "headers={...}, strings"),
        "at_front": 'priority="high"',
        **dict.fromkeys(
            ("link", "link_error", "on_success", "on_failure"), "middleware: its `run` is around each run"
        ),
        "base": "not needed: middleware is what all tasks have in common",
        "pool": 'executor="process"',
    },
    ApiPart.SETTING: {
        **dict.fromkeys(("retry", "executor", "priority"), "an option of each task: @app.task(...)"),
        **dict.fromkeys(
            ("broker", "broker_url", "redis", "redis_url", "redis_settings", "redis_dsn", "dsn"), _URL
        ),
        **dict.fromkeys(("broker_read_url", "broker_write_url", "valkey_url", "connection", "uri"), _URL),
        **dict.fromkeys(("host", "port", "db", "password", "username"), f"a part of {_URL}"),
        **dict.fromkeys(("redis_host", "redis_port", "redis_db", "redis_password"), f"a part of {_URL}"),
        **dict.fromkeys(("backend", "result_backend", "results_backend", "store_results"), _NO_BACKEND),
        **dict.fromkeys(
            ("task_serializer", "result_serializer", "accept_content", "serializer", "event_serializer"),
            _SERIALIZER,
        ),
        **dict.fromkeys(("job_serializer", "job_deserializer"), _SERIALIZER),
        **dict.fromkeys(
            ("include", "tasks", "functions", "modules", "task_modules", "task_packages"), "imports=[...]"
        ),
        **dict.fromkeys(("worker_concurrency", "max_jobs", "max_async_tasks"), "concurrency=..."),
        **dict.fromkeys(("workers", "worker_processes", "num_workers"), "processes=..."),
        **dict.fromkeys(("task_time_limit", "task_soft_time_limit", "job_timeout", "time_limit"), "timeout=..."),
        **dict.fromkeys(("result_expires", "task_result_expires", "keep_result"), "result_ttl=..., in seconds"),
        "task_ignore_result": "result_ttl=0",
        **dict.fromkeys(("task_default_queue", "queue", "queue_name"), "default_queue=..."),
        "task_queues": "@app.task(queue=...) and `aioq worker -q NAME`",
        **dict.fromkeys(("task_routes", "task_router"), 'routes={"shop.mail.*": "mail"}'),
        **dict.fromkeys(("namespace", "prefix", "main", "app", "app_name"), "name=..., the prefix of all keys"),
        **dict.fromkeys(("beat_schedule", "beat_schedules", "cron_jobs"), "schedules={...}, or @app.cron(...)"),
        **dict.fromkeys(("tz", "time_zone", "celery_timezone"), "timezone=..."),
        "enable_utc": 'not needed: times have a zone; timezone="UTC" is the default of schedules',
        **dict.fromkeys(("loglevel", "worker_log_level"), "log_level=..."),
        **dict.fromkeys(("task_always_eager", "always_eager", "immediate", "is_async"), "app.test(), in tests"),
        **dict.fromkeys(("task_acks_late", "task_reject_on_worker_lost", "acks_late"), _ALWAYS),
        **dict.fromkeys(
            ("worker_prefetch_multiplier", "prefetch", "burst_size"), "not needed: concurrency=... bounds it"
        ),
        **dict.fromkeys(("on_startup", "on_shutdown", "startup", "shutdown"), _LIFESPAN),
        **dict.fromkeys(("on_job_start", "on_job_end", "after_job_end"), _HOOKS),
        **dict.fromkeys(("middlewares",), "middleware=[...]"),
        **dict.fromkeys(
            ("visibility_timeout", "broker_transport_options"),
            "lease=..., after which a dead worker's jobs run again",
        ),
        **dict.fromkeys(
            ("graceful_shutdown_timeout", "shutdown_grace_period", "job_completion_wait"), "shutdown_timeout=..."
        ),
        **dict.fromkeys(("poll_delay", "dequeue_timeout"), "not needed: workers are notified of jobs"),
        **dict.fromkeys(("task_annotations", "task_default_rate_limit"), "options of each task: @app.task(...)"),
    },
    ApiPart.RETRY: {
        **dict.fromkeys(
            ("max_retries", "retries", "max_tries", "tries", "max_attempts", "stop"),
            "attempts=..., where the first attempt counts too",
        ),
        **dict.fromkeys(
            ("countdown", "defer", "eta", "wait", "default_retry_delay", "retry_delay", "interval"),
            "delay=..., in seconds",
        ),
        **dict.fromkeys(("backoff", "retry_backoff", "min_backoff"), "delay=... and factor=..."),
        **dict.fromkeys(("backoff_max", "retry_backoff_max", "max_backoff"), "max_delay=..."),
        **dict.fromkeys(("retry_jitter",), "jitter=..."),
        **dict.fromkeys(("autoretry_for", "retry_for", "retry_on", "exceptions", "throw"), "on=(...)"),
        **dict.fromkeys(("dont_autoretry_for", "throws"), "never=(...)"),
        "exc": "raise Retry(...) from error",
        "intervals": "delays=[...]",
    },
    ApiPart.COMMAND: {
        **dict.fromkeys(("-A", "--app"), "the first argument: aioq worker shop.tasks:app"),
        **dict.fromkeys(("-Q", "--queues"), "-q NAME, once for each queue"),
        "--loglevel": "--log-level, or -l",
        **dict.fromkeys(("-P", "--pool"), "not needed: each task says where it runs (def, async def, executor=)"),
        **dict.fromkeys(("-B", "--beat", "beat", "scheduler"), "not needed: any worker keeps the clock"),
        "--autoscale": "-c N and -p N, which are fixed",
        **dict.fromkeys(("-t", "--threads"), "the setting threads"),
        **dict.fromkeys(("-w", "--workers"), "-p N"),
        **dict.fromkeys(("-n", "--hostname", "--name"), "not needed: a worker's name is made of its host and pid"),
        **dict.fromkeys(("--watch",), "--reload"),
        **dict.fromkeys(("--url", "--broker", "-b"), "AIOQ_URL in the environment, or App(url=...)"),
        **dict.fromkeys(("-E", "--events", "--task-events", "flower", "dashboard"), _EVENTS),
        "purge": "aioq queue NAME --purge",
        "result": "aioq job ID",
        "call": "aioq send NAME",
        **dict.fromkeys(("inspect", "status", "info"), "aioq workers, aioq queues, aioq job ID"),
        **dict.fromkeys(("run", "start", "multi", "work"), "aioq worker shop.tasks:app"),
    },
    ApiPart.PACKAGE: {
        **dict.fromkeys(("Celery", "Huey", "RedisHuey", "Broker", "RedisBroker", "current_app"), _APP),
        **dict.fromkeys(("shared_task", "actor", "job"), "@app.task"),
        **dict.fromkeys(("chain", "chord", "signature", "chunks"), _TOGETHER),
        **dict.fromkeys(("crontab", "CronJob", "cron_job"), f"@app.cron(...), app.schedule(...); {_TIMING}"),
        **dict.fromkeys(("Reject", "Ignore"), 'raise Fail("why"), raise Cancel("why")'),
        **dict.fromkeys(("AsyncResult", "GroupResult", "Job"), "app.handle(job_id)"),
        **dict.fromkeys(("Worker", "WorkerSettings", "run_worker"), _WORKER),
        **dict.fromkeys(("current_task", "get_current_job", "Context"), _CONTEXT),
        **dict.fromkeys(("states", "JobStatus", "TaskStatus"), "JobState"),
    },
}
"""For each place the names of other libraries, each with what is written in aioq instead, or why nothing is."""

_PREFIXES = ("celery_", "rq_", "arq_", "dramatiq_", "huey_", "saq_", "taskiq_")

SERVERS = ("CELERY_BROKER_URL", "BROKER_URL", "REDIS_URL", "VALKEY_URL", "REDIS_HOST")
"""Environment variables that tell other libraries where the server is."""


def here(place: ApiPart, word: str) -> str | None:
    """The name in aioq for a name of another library; None if the table does not have it.

    Args:
        place: where it was written. Options and settings are also looked up in each other's table.
        word: the name as it was written, in upper or lower case; a setting also with the library's name before it.
    """
    for each in (word, word.lower(), *(word.lower().removeprefix(prefix) for prefix in _PREFIXES)):
        for where in (place, *(_TOGETHER_PLACES if place in _TOGETHER_PLACES and each not in _COMMON else ())):
            if each in WORDS[where]:
                return WORDS[where][each]
    return None


_TOGETHER_PLACES = (ApiPart.OPTION, ApiPart.SETTING)

_COMMON = frozenset(
    {"app", "at", "base", "bind", "connection", "context", "expire", "expires", "host", "key", "labels", "limit"}
    | {"link", "main", "meta", "metadata", "modules", "password", "pool", "port", "prefix", "redis", "tasks"}
    | {"throttle", "ttl", "username", "wait", "when", "workers"}
)
"""Names that are too common to be looked up in another place's table: a config module may call anything BASE."""


def explain_missing(cls: type, place: ApiPart) -> None:
    """Give a class errors that explain missing attributes which exist in other libraries.

    It sets `__getattr__` from outside: in a class that defines it, a type checker would accept every attribute.
    """

    def look_up(thing: Any, name: str) -> Any:
        instead = here(place, name) if not name.startswith("__") else None
        hint = "" if instead is None else f"; here it is {instead}"
        text = f"{type(thing).__name__!r} object has no attribute {name!r}{hint}"
        raise AttributeError(text, name=name, obj=thing)

    setattr(cls, _LOOK_UP, look_up)


_LOOK_UP = "__getattr__"
