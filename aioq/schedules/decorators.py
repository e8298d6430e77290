"""The part of an App that declares schedules."""

from collections.abc import Callable
from typing import Any, Unpack

from aioq.errors import ConfigError
from aioq.producer.call import Call
from aioq.schedules.declare import Declarations, ScheduleArgs, check_id
from aioq.tasks.registry import ScheduleDecorator, call_without_arguments, caller, foreign
from aioq.tasks.task import Sender, Task, sender_of
from aioq.util.durations import Duration
from aioq.util.printable import brief

_USES = {"every": "@app.every(seconds)", "cron": '@app.cron("...")'}
"""How the decorators are written."""


class Scheduling:
    """See the module.

    Args:
        declarations: what is declared.
        register: makes a task of a function.
        sender: what this App's tasks send through, by which they are known.
    """

    def __init__(
        self, declarations: Declarations, register: Callable[[Callable[..., Any]], Any], sender: Sender
    ) -> None:
        self._declarations = declarations
        self._register = register
        self._sender = sender

    def schedule(
        self,
        schedule_id: str,
        call: Call[Any],
        *,
        cron: str | None = None,
        every: Duration | None = None,
        **options: Unpack[ScheduleArgs],
    ) -> None:
        """Declare a schedule: `app.schedule("add-every-30-seconds", add.call(5, 8), every=30)`.

        A worker puts it into the server, and any worker makes its ticks, each once.

        Args:
            schedule_id: its id: 1 to 200 printable characters without blanks.
            call: what each tick sends, made by `task.call(...)`.
            cron: when: five fields, six with seconds in front, or `@daily` and its like.
            every: or an interval, in seconds or as a timedelta, at least 0.1 s. It ticks on the grid from `start`
                on, by default from the epoch: every 30 s at second 0 and 30 of each minute.
            options: all optional. `tz`: the zone of the cron line, by default the setting `timezone`. `start`,
                `end`: the first and the last moment of a tick. `jitter`: each job is put off by a part of this.
                `max_runs`: it is over after so many jobs. `misfire`: what becomes of ticks that no worker was
                there for: `skip`, `last` (the default) or `all`, the latest `misfire_cap` (100) of them.
                `overlap`: what becomes of a tick while the job before it has not ended: `allow` (the default),
                `skip`, or `one`, which holds one job back.

        Raises:
            ConfigError: naming the schedule and the option, or the other place that declares this id; or the same
                place, where it declares another schedule by it: in a loop, or as a helper of others. Or the call
                is none, is of another App's task, or does not fit its task.
            ArgumentError: an argument of the call cannot be encoded.
        """
        given = {"cron": cron, "every": every, **options}
        self._declarations.add_call(schedule_id, call, caller(), given)

    def cron(
        self, line: str = "", /, *, schedule_id: str | None = None, **options: Unpack[ScheduleArgs]
    ) -> ScheduleDecorator:
        """Declare a schedule by a cron line, of a function without arguments: `@app.cron("*/5 * * * mon-fri")`.

        A function that is no task yet becomes one; `@app.task(...)` below it gives it options.

        Args:
            line: as `cron` of `schedule`; it has no default, but for the error that says so.
            schedule_id: by default the task's name.
            options: as for `schedule`.

        Raises:
            ConfigError: as `schedule`.
            ArgumentError: the function takes arguments.
        """
        return self._scheduler("cron", line, schedule_id, caller(), options)

    def every(
        self, interval: Duration = 0, /, *, schedule_id: str | None = None, **options: Unpack[ScheduleArgs]
    ) -> ScheduleDecorator:
        """Declare a schedule by an interval; otherwise as `cron`: `@app.every(timedelta(seconds=30))`."""
        return self._scheduler("every", interval, schedule_id, caller(), options)

    def _scheduler(
        self, name: str, timing: object, schedule_id: str | None, place: str, options: ScheduleArgs
    ) -> ScheduleDecorator:
        decorator = f"@app.{name} at {place}"
        if callable(
            timing
        ):  # written without parentheses: it would take the function's place, and declare nothing
            raise ConfigError(f"{decorator}: it stands alone before {brief(timing)}; use {_USES[name]}")
        where = decorator if schedule_id is None else f"schedule {check_id(schedule_id)!r}"
        # Now, and not when the function comes: the one that is wrong is this line.
        definition = self._declarations.define(where, {name: timing, **options})

        def declare(task: Task[Any, Any]) -> None:
            if sender_of(task) is not self._sender:
                raise ConfigError(f"{where}: {foreign(task.name)}")
            call, sends = call_without_arguments(task), (task.name, task.defaults)
            self._declarations.add(schedule_id or task.name, call, place, definition, sends=sends)

        return ScheduleDecorator(self._register, declare)
