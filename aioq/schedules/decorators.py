"""The decorators that declare schedules."""

from collections.abc import Callable
from typing import Any

from aioq.errors import ConfigError
from aioq.schedules.declare import Declarations, ScheduleArgs, check_id
from aioq.tasks.registry import ScheduleDecorator, call_without_arguments, foreign
from aioq.tasks.task import Task, TaskApp, app_of
from aioq.util.printable import brief

_USES = {"every": "@app.every(seconds)", "cron": '@app.cron("...")'}
"""The correct use of each decorator, for errors."""


class ScheduleDecorators:
    """Makes the decorators `@app.cron(...)` and `@app.every(...)`.

    Args:
        declarations: stores the declarations.
        register: makes a task of a function.
        app: the App that owns these tasks, to recognize a task of another App.
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
        """The decorator that declares a schedule of the task that it decorates.

        Args:
            name: `cron` or `every`: the name of the decorator and of its argument.
            timing: the cron line or the interval.
            schedule_id: the schedule's id; by default the task's name.
            place: where the decorator is written.
            options: the other options of the schedule.

        Raises:
            ConfigError: the message names the decorator or the schedule, and the option.
        """
        decorator = f"@app.{name} at {place}"
        if callable(timing):  # `@app.cron` without parentheses: it would replace the function and declare nothing
            raise ConfigError(f"{decorator}: before {brief(timing)} the decorator needs arguments: {_USES[name]}")
        where = decorator if schedule_id is None else f"schedule {check_id(schedule_id)!r}"
        # Checked now, and not when the function is decorated: so the error points at this line.
        definition = self._declarations.define(where, {name: timing, **options})

        def declare(task: Task[Any, Any]) -> None:
            if app_of(task) is not self._app:
                raise ConfigError(f"{where}: {foreign(task.name)}")
            call, sends = call_without_arguments(task), (task.name, task.defaults)
            self._declarations.add(schedule_id or task.name, call, place, definition, sends=sends)

        return ScheduleDecorator(self._register, declare)
