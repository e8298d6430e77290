"""The screen of one job."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen

from aioq.cli.top.story import HEADING, JobDetails, story_lines
from aioq.cli.top.widgets import Line, MessageLine
from aioq.errors import AioqError
from aioq.jobs.job import JobInfo
from aioq.util.printable import printable

KEYS = " escape back   r retry   c cancel   d delete   ? help   q quit"


class JobScreen(Screen[None]):
    """All that is known of one job; read again and again while it is open.

    Args:
        job: the job.
        read: reads its story, going on from the one before.
        interval: how many seconds pass between two readings.

    Attributes:
        job: the job.
        message: the line for messages.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,backspace,left", "close", "Back"),
        ("r", "change('retry')", "Retry"),
        ("c", "change('cancel')", "Cancel"),
        ("d", "change('delete')", "Delete"),
    ]
    DEFAULT_CSS = """
    JobScreen .title { height: 1; text-style: reverse; }
    JobScreen VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
    JobScreen .keys { height: 1; text-style: reverse; }
    JobScreen .story { padding: 0 1; }
    """

    def __init__(
        self, job: JobInfo, read: Callable[[JobInfo, JobDetails | None], Awaitable[JobDetails]], interval: float
    ) -> None:
        super().__init__()
        self.job = job
        self._read = read
        self._interval = interval
        self._story: JobDetails | None = None
        self._wake = asyncio.Event()
        # Kept, and not looked for: a reply may come while the screen is being closed.
        self._text = Line(" reading ...", classes="story")
        self.message = MessageLine()

    def compose(self) -> ComposeResult:
        """The lines, and the keys."""
        yield Line(Content(f" job {printable(self.job.id)}"), classes="title")
        with VerticalScroll():
            yield self._text
        yield self.message
        yield Line(KEYS, classes="keys", markup=False)

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one(VerticalScroll).focus()
        self.run_worker(self._follow())

    async def _follow(self) -> None:
        while True:
            self._wake.clear()
            try:
                self._story = await self._read(self.job, self._story)
            except AioqError as error:
                self.message.trouble(str(error))
            else:
                self._text.update(_styled(story_lines(self._story)))
                self.message.trouble("")
            try:
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def read_again(self) -> None:
        """Read at once."""
        self._wake.set()

    def action_close(self) -> None:
        """Go back."""
        self.dismiss()


def _styled(lines: list[str]) -> Content:
    parts = [
        Content.styled(line.removeprefix(HEADING), "bold underline") if line.startswith(HEADING) else Content(line)
        for line in lines
    ]
    return Content("\n").join(parts)
