"""The decorators that declare schedules."""

from collections.abc import Callable
from typing import Any

from aioq.errors import ConfigError
from aioq.schedules.declare import Declarations, ScheduleArgs, check_id
from aioq.tasks.registry import ScheduleDecorator, call_without_arguments, foreign
from aioq.tasks.task import Task, TaskApp, app_of
from aioq.util.printable import brief

_USES = {"every": "@app.every(seconds)", "cron": '@app.cron("...")'}
"""How the decorators are written."""


class ScheduleDecorators:
    """Makes the decorators `@app.cron(...)` and `@app.every(...)`.

    Args:
        declarations: takes what is declared.
        register: makes a task of a function.
        app: what this App's tasks are known by.
    """

    def __init__(
        self, declarations: Declarations, register: Callable[[Callable[..., Any]], Any], app: TaskApp
    ) -> None:
        self._declarations = declarations
        self._register = register
        self._app = app

    def make(
        self, name: str, timing: object, schedule_id: str | None, place: str, options: ScheduleArgs
    ) -> ScheduleDecorator:
        """The decorator that declares a schedule of the task under it.

        Args:
            name: `cron` or `every`, the name of the decorator and of its timing.
            timing: the line or the interval.
            schedule_id: by default the task's name.
            place: where it is written.
            options: the other options of the schedule.

        Raises:
            ConfigError: naming the decorator, or the schedule, and the option.
        """
        decorator = f"@app.{name} at {place}"
        if callable(timing):  # without parentheses it would take the function's place, and declare nothing
            raise ConfigError(f"{decorator}: before {brief(timing)} the decorator needs arguments: {_USES[name]}")
        where = decorator if schedule_id is None else f"schedule {check_id(schedule_id)!r}"
        # Now, and not when the function comes: the one that is wrong is this line.
        definition = self._declarations.define(where, {name: timing, **options})

        def declare(task: Task[Any, Any]) -> None:
            if app_of(task) is not self._app:
                raise ConfigError(f"{where}: {foreign(task.name)}")
            call, sends = call_without_arguments(task), (task.name, task.defaults)
            self._declarations.add(schedule_id or task.name, call, place, definition, sends=sends)

        return ScheduleDecorator(self._register, declare)
