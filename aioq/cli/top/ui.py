"""The main screen, and what its keys do."""

import asyncio
import signal
from collections.abc import Awaitable
from datetime import UTC, datetime
from time import monotonic
from typing import ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, OptionList
from textual.worker import Worker

from aioq.app import App as Aioq
from aioq.cli import INTERRUPTED
from aioq.cli.top.actions import CHANGES, change_job, toggle_pause
from aioq.cli.top.board import ALL
from aioq.cli.top.filter import Filter, parse_filter
from aioq.cli.top.job_screen import JobScreen
from aioq.cli.top.reader import BoardReader, FoundJobs, Selection, Tab
from aioq.cli.top.rows import (
    MOST_ROWS,
    fitted,
    job_columns,
    note_of,
    queue_columns,
    rates_line,
    served_by,
    short,
    worker_columns,
)
from aioq.cli.top.widgets import Help, Line, MessageLine, Question, Table
from aioq.errors import AioqError, ConfigError
from aioq.jobs.job import JobInfo
from aioq.operate.registered import id_of
from aioq.util.printable import printable

KEYS = " / filter  enter open  r retry  c cancel  d delete  p pause  ? help  q quit"

ENDING = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: INTERRUPTED}
"""The signals that end it, with its exit codes: by the convention of shells 128 and the signal's number."""

_PATIENCE = 3.0
"""After so many seconds without an answer the screen says so."""


class Top(App[None]):
    """The application.

    Args:
        app: the App that is looked at.
        server: the server, as it is shown.
        interval: how many seconds pass between two refreshes.
    """

    ENABLE_COMMAND_PALETTE = False
    TITLE = "aioq top"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "leave", "Quit"),
        Binding("ctrl+c", "interrupt", "Quit", priority=True),
        Binding("slash", "filter", "Filter", priority=True),
        Binding("escape", "unfilter", "End the filter"),
        Binding("question_mark", "help", "Help"),
        Binding("space", "refresh", "Refresh"),
        Binding("r", "change('retry')", "Retry"),
        Binding("c", "change('cancel')", "Cancel"),
        Binding("p", "pause", "Pause"),
        Binding("o", "order", "Order"),
        Binding("d", "change('delete')", "Delete"),
        *(Binding(str(number), f"tab('{tab}')", tab) for number, tab in enumerate(Tab, 1)),
    ]
    DEFAULT_CSS = """
    #title, #keys { height: 1; text-style: reverse; }
    #rates, #tabs { height: 1; }
    #tabs { margin: 0; text-style: bold; }
    #queues { max-height: 35%; }
    #jobs { height: 1fr; }
    #filter { height: 1; border: none; padding: 0 1; display: none; background: transparent; }
    #filter:focus { border: none; background-tint: transparent; }
    """

    def __init__(self, app: Aioq, server: str, interval: float) -> None:
        super().__init__(ansi_color=True)  # the terminal's own colours; with NO_COLOR none at all
        self.theme = "ansi-dark"
        self._aioq = app
        self._server = server
        self._interval = interval
        self._reader = BoardReader(app)
        self._selection = Selection()
        self._found = FoundJobs()
        self._read_at = monotonic()
        self._wake = asyncio.Event()
        self._follower: Worker[None] | None = None
        self._is_by_queued = False
        # The widgets are kept, and not looked for: a reply may come while the screen is being taken down.
        self._title, self._rates, self._tabs = (
            Line("", id=name, markup=False) for name in ("title", "rates", "tabs")
        )
        self._queues, self._jobs = Table("queues"), Table("jobs")
        self._message = MessageLine()
        self._field = Input(id="filter", placeholder='charge error="Timeout*" queue=mail', compact=True)
        self.refreshes = 0

    def compose(self) -> ComposeResult:
        """The tables, and the lines around them."""
        yield self._title
        yield self._queues
        yield self._rates
        yield self._tabs
        yield self._jobs
        yield self._message
        yield self._field
        yield Line(KEYS, id="keys", markup=False)

    def on_load(self) -> None:
        """Prepare the loop, before the terminal is changed: a signal that ends this must restore it."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(None)  # textual makes tasks begin at once, which others on this loop do not expect
        for number, code in ENDING.items():
            loop.add_signal_handler(number, self._end, code)

    def on_unmount(self) -> None:
        """Leave the signals to others."""
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.remove_signal_handler(number)

    def on_mount(self) -> None:
        """Begin to read."""
        self._jobs.take_focus()
        self.set_interval(1.0, self._draw_lines)
        self._follower = self.run_worker(self._follow())

    # -- reading and drawing

    async def _follow(self) -> None:
        """Read again and again; only what is on the screen, and nothing while a job's screen is open."""
        while True:
            self._wake.clear()
            if any(isinstance(screen, JobScreen) for screen in self.screen_stack):
                self._read_at = monotonic()
            else:
                await self._read()
            try:
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _read(self) -> None:
        selected = self._selection
        try:
            found = await self._reader.refresh(selected)
        except AioqError as error:
            self._message.trouble(f"{error}; trying again")
            return
        self._read_at = monotonic()
        self._message.trouble("")
        if selected == self._selection:
            self._found = found
            self._draw()
        self.refreshes += 1

    def _draw(self) -> None:
        board, selected = self._reader.board, self._selection
        queues = board.queues(busiest_first=self._is_by_queued)
        noticed = {view.name for view in queues if note_of(view).strip()}
        self._queues.show(queues, queue_columns(self.size.width), lambda view: view.name, noticed)
        self._draw_lines()
        if selected.tab is Tab.WORKERS:
            jobs, running = board.running(selected.queue), dict[str, int]()
            for job in jobs:
                worker = id_of(job.worker or "")
                running[worker] = running.get(worker, 0) + 1
            workers = {
                name: each
                for name, each in board.workers(selected.queue).items()
                if selected.filter.fits_worker(name)
            }
            shown = dict(sorted(workers.items())[:MOST_ROWS])
            self._jobs.show(served_by(shown), worker_columns(running), lambda each: each[0])
        else:
            columns = job_columns(selected.tab.state, board.now_ms)
            self._jobs.show(self._found.jobs, columns, lambda job: job.id)

    def _draw_lines(self) -> None:
        """The lines that also change while nothing is read."""
        silent = monotonic() - self._read_at
        late = (
            f"no answer for {silent:.0f} s"
            if silent > _PATIENCE + self._interval
            else f"every {self._interval:g} s"
        )
        left, right = f" aioq top  {self._aioq.name}  {self._server}", f"{datetime.now(UTC):%H:%M:%S} UTC  {late} "
        width = self.size.width
        self._title.show(f"{fitted(printable(left), max(0, width - len(right)))}{right}")
        view = self._reader.board.view(self._selection.queue)
        if self._aioq.settings.stats:
            self._rates.show(f" {rates_line(view)}")
        self._tabs.show(self._tabs_line())
        self._message.hint(self._hint())

    def _tabs_line(self) -> str:
        selected, view = self._selection, self._reader.board.view(self._selection.queue)
        names: list[str] = []
        for number, tab in enumerate(Tab, 1):
            count = (
                len(self._reader.board.workers(selected.queue)) if tab is Tab.WORKERS else view.count(tab.state)
            )
            name = f"{number} {tab} {short(count)}"
            names.append(f"[{name}]" if tab is selected.tab else f" {name} ")
        return "".join(names)

    def _hint(self) -> str:
        """What the filter does, if there is one."""
        text, looked_at = self._selection.filter.text, self._found.looked_at
        seen = "" if self._selection.tab is Tab.WORKERS else f" ({len(self._found.jobs)} of {looked_at} looked at)"
        return f"filter: {text}{seen}; escape ends it" if text else ""

    def on_resize(self) -> None:
        """Fit the rows into the new width."""
        if self.refreshes:
            self.call_after_refresh(self._draw)

    # -- what is selected

    def _show_selection(self, selected: Selection) -> None:
        if selected != self._selection:
            self._selection = selected
            self._reader.board.fits_queue = selected.filter.fits_queue
            self._found = FoundJobs()
            self._draw()
            self._wake.set()

    @on(OptionList.OptionHighlighted, "#queues OptionList")
    def choose_queue(self, event: OptionList.OptionHighlighted) -> None:
        """Show the jobs of the queue on which the cursor is."""
        selected = self._selection
        self._show_selection(Selection(event.option.id or ALL, selected.tab, selected.filter))

    def action_tab(self, name: str) -> None:
        """Show other jobs, or the workers."""
        self._show_selection(Selection(self._selection.queue, Tab(name), self._selection.filter))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether a key does something now. In the filter and on other screens a slash is only a slash."""
        if action == "filter":
            return len(self.screen_stack) == 1 and not self._field.display
        return super().check_action(action, parameters)

    def action_filter(self) -> None:
        """Let a filter be typed."""
        self._field.value = self._selection.filter.text
        self._field.display = True
        self._message.display = False
        # At once, and by a binding with priority: keys that have come together with this one, over a slow line,
        # must be a part of the filter, and not change a job.
        self.screen.set_focus(self._field)

    @on(Input.Submitted, "#filter")
    def take_filter(self, event: Input.Submitted) -> None:
        """Use the filter that was typed."""
        self._close_filter()
        try:
            found = parse_filter(event.value)
        except ConfigError as error:
            self._message.notice(str(error))
            return
        self._show_selection(
            Selection(
                self._selection.queue if found.fits_queue(self._selection.queue) else ALL,
                self._selection.tab,
                found,
            )
        )

    def action_unfilter(self) -> None:
        """End typing, or the filter."""
        if self._field.display:
            self._close_filter()
        else:
            self._show_selection(Selection(self._selection.queue, self._selection.tab, Filter()))

    def _close_filter(self) -> None:
        self._field.display = False
        self._message.display = True
        self._jobs.take_focus()

    # -- what is done

    @on(OptionList.OptionSelected, "#queues OptionList")
    def enter_queue(self) -> None:
        """Go to the jobs of the queue."""
        self._jobs.take_focus()

    @on(OptionList.OptionSelected, "#jobs OptionList")
    def open_job(self) -> None:
        """Open the job on which the cursor is."""
        job = self._job()
        if job is not None:
            self.push_screen(JobScreen(job, self._reader.story, self._interval), lambda _: self._wake.set())

    def _job(self) -> JobInfo | None:
        """The job that is open, or on which the cursor is; a message if there is none."""
        if isinstance(self.screen, JobScreen):
            return self.screen.job
        chosen = self._jobs.chosen
        found = [job for job in self._found.jobs if job.id == chosen and self._selection.tab is not Tab.WORKERS]
        if not found:
            self._message.notice("choose a job first: 1 running, 2 failed, 3 queued, 4 scheduled")
        return found[0] if found else None

    def action_change(self, verb: str) -> None:
        """Change the job, after a question where that destroys something."""
        job = self._job()
        if job is None:
            return

        def answered(is_confirmed: bool | None) -> None:
            if is_confirmed:
                self.run_worker(self._change(verb, job))

        if CHANGES[verb].asks:
            self.push_screen(Question(f"{verb} the job {printable(job.id)} ({printable(job.task)})?"), answered)
        else:
            answered(True)

    async def _change(self, verb: str, job: JobInfo) -> None:
        await self._say(change_job(self._aioq, verb, job))

    def action_pause(self) -> None:
        """Pause the queue on which the cursor is, or end its pause."""
        queue = self._queues.chosen
        if queue == ALL or queue is None or isinstance(self.screen, JobScreen):
            self._message.notice("choose a queue first: tab goes to the queues")
            return
        is_paused = self._reader.board.view(queue).is_paused
        self.run_worker(self._say(toggle_pause(self._aioq, queue, is_paused=is_paused)))

    async def _say(self, change: Awaitable[str]) -> None:
        """Make a change, say what was done on the screen that is open, and show what it has changed."""
        try:
            text = await change
        except AioqError as error:
            text = str(error)
        screen = self.screen
        if isinstance(screen, JobScreen):
            screen.message.notice(text)
            screen.read_again()
        self._message.notice(text)
        self._wake.set()

    def action_order(self) -> None:
        """Show the queues in the other order."""
        self._is_by_queued = not self._is_by_queued
        self._message.notice("queues by queued jobs" if self._is_by_queued else "queues by name")
        self._draw()

    def action_refresh(self) -> None:
        """Read at once."""
        self._wake.set()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())

    # -- its end

    def action_leave(self) -> None:
        """End it."""
        self._end(0)

    def action_interrupt(self) -> None:
        """End it, as Ctrl-C ends other commands."""
        self._end(INTERRUPTED)

    def _end(self, code: int) -> None:
        if self._follower is not None:
            self._follower.cancel()  # a reply that comes now finds no tables any more
        self.exit(return_code=code)
