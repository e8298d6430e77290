from aioq.app import App
from aioq.config.queues import Queue
from aioq.errors import (
    AioqError,
    ArgumentError,
    ConfigError,
    DuplicateJobError,
    DuplicateTaskError,
    EmbeddedServerError,
    Failure,
    FlowFailed,
    JobCancelledError,
    JobError,
    JobFailed,
    JobNotFoundError,
    LoadError,
    NewerVersionError,
    PayloadTooLargeError,
    ProcessDiedError,
    QueueFullError,
    RemoteError,
    ResultError,
    RunningLoopError,
    ScheduleConflictError,
    ScheduleNotFoundError,
    SendError,
    ServerError,
    ServerRejectedError,
    ServerUnavailableError,
    UnknownTaskError,
    WireError,
    WorkerNotFoundError,
    WorkerRefusedError,
    WouldDeadlock,
    WrongLoopError,
)
from aioq.flows.chain import Chain, Group, group
from aioq.flows.flow import Flow
from aioq.flows.grafts import CurrentFlow, current_flow
from aioq.flows.handle import FlowHandle
from aioq.flows.node import FlowNode
from aioq.flows.queries import FlowInfo, FlowQuery
from aioq.flows.views import FlowGraph, FlowProgress, GraphNode, NodeState
from aioq.jobs.batches import Batch
from aioq.jobs.context import JobContext, NoJobError, current_job
from aioq.jobs.debounce import Debounce
from aioq.jobs.events import Event, EventKind
from aioq.jobs.job import FailedAttempt, JobInfo, JobState, Priority, Progress
from aioq.jobs.limits import Fair, Limit
from aioq.jobs.loglines import LogLine
from aioq.jobs.middleware import Middleware, Outgoing
from aioq.jobs.outcome import Outcome, OutcomeKind
from aioq.jobs.retry import Retry, Snooze
from aioq.jobs.unique import Unique
from aioq.jobs.verdicts import Cancel, Fail
from aioq.limiters.info import LimiterInfo
from aioq.limiters.limiter import Limiter, Permit
from aioq.operate.events import EventStream
from aioq.operate.jobs import JobCount, JobPage, JobQuery
from aioq.operate.limit_info import LimitInfo, LimitKey
from aioq.operate.operations import Operation
from aioq.operate.pauses import PauseInfo, QueueInfo
from aioq.operate.plan import OperationInfo
from aioq.operate.queue_tasks import QueueTask
from aioq.operate.queues import QueueHandle, ShardInfo
from aioq.operate.statistics import Percentiles, QueueActivity, QueueStats
from aioq.operate.worker import WorkerInfo
from aioq.operate.workers import WorkerQuery
from aioq.producer.call import Call
from aioq.results.gather import as_completed, gather, gather_sync
from aioq.results.handle import JobHandle
from aioq.results.timeline import JobEvent, TimelineEntry
from aioq.results.why import Why, WhyCode, WhyReason
from aioq.schedules.info import Schedule
from aioq.store.operations import OperationState
from aioq.tasks.batches import BatchItem, BatchTask
from aioq.tasks.task import Task
from aioq.worker.about import WorkerFigures
from aioq.worker.stacks import Stack, WorkerStacks

__version__: str

__all__ = [
    "AioqError",
    "App",
    "ArgumentError",
    "Batch",
    "BatchItem",
    "BatchTask",
    "Call",
    "Cancel",
    "Chain",
    "ConfigError",
    "CurrentFlow",
    "Debounce",
    "DuplicateJobError",
    "DuplicateTaskError",
    "EmbeddedServerError",
    "Event",
    "EventKind",
    "EventStream",
    "Fail",
    "FailedAttempt",
    "Failure",
    "Fair",
    "Flow",
    "FlowFailed",
    "FlowGraph",
    "FlowHandle",
    "FlowInfo",
    "FlowNode",
    "FlowProgress",
    "FlowQuery",
    "GraphNode",
    "Group",
    "JobCancelledError",
    "JobContext",
    "JobCount",
    "JobError",
    "JobEvent",
    "JobFailed",
    "JobHandle",
    "JobInfo",
    "JobNotFoundError",
    "JobPage",
    "JobQuery",
    "JobState",
    "Limit",
    "LimitInfo",
    "LimitKey",
    "Limiter",
    "LimiterInfo",
    "LoadError",
    "LogLine",
    "Middleware",
    "NewerVersionError",
    "NoJobError",
    "NodeState",
    "Operation",
    "OperationInfo",
    "OperationState",
    "Outcome",
    "OutcomeKind",
    "Outgoing",
    "PauseInfo",
    "PayloadTooLargeError",
    "Percentiles",
    "Permit",
    "Priority",
    "ProcessDiedError",
    "Progress",
    "Queue",
    "QueueActivity",
    "QueueFullError",
    "QueueHandle",
    "QueueInfo",
    "QueueStats",
    "QueueTask",
    "RemoteError",
    "ResultError",
    "Retry",
    "RunningLoopError",
    "Schedule",
    "ScheduleConflictError",
    "ScheduleNotFoundError",
    "SendError",
    "ServerError",
    "ServerRejectedError",
    "ServerUnavailableError",
    "ShardInfo",
    "Snooze",
    "Stack",
    "Task",
    "TimelineEntry",
    "Unique",
    "UnknownTaskError",
    "Why",
    "WhyCode",
    "WhyReason",
    "WireError",
    "WorkerFigures",
    "WorkerInfo",
    "WorkerNotFoundError",
    "WorkerQuery",
    "WorkerRefusedError",
    "WorkerStacks",
    "WouldDeadlock",
    "WrongLoopError",
    "as_completed",
    "current_flow",
    "current_job",
    "gather",
    "gather_sync",
    "group",
]
