"""The widgets: a table whose cursor stays on its row, a question, and the help."""

from collections.abc import Callable, Container, Iterable, Sequence
from time import monotonic
from typing import ClassVar, TypeVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from aioq.cli.top.rows import Column, table_lines
from aioq.util.printable import printable

T = TypeVar("T")

NOTICED = "ansi_yellow"
"""The colour of what is to be noticed."""

NOTICE_SECONDS = 5.0
"""How long it is shown what was done."""


class Line(Static):
    """One line of text, which is shown as it is."""

    def show(self, text: str) -> None:
        """Show another text."""
        self.update(Content(text))


class MessageLine(Line):
    """The line for messages: what is wrong as long as it is, else for some seconds what was done, else a hint."""

    DEFAULT_CSS = "MessageLine { height: 1; text-style: bold; }"

    def __init__(self) -> None:
        super().__init__("", markup=False)
        self._trouble = ""
        self._notice = ""
        self._hint = ""
        self._until = 0.0

    def notice(self, text: str) -> None:
        """Show what was done."""
        self._notice, self._until = text, monotonic() + NOTICE_SECONDS
        self.redraw()

    def trouble(self, text: str) -> None:
        """Show what is wrong; empty for nothing any more."""
        self._trouble = text
        self.redraw()

    def hint(self, text: str) -> None:
        """Show this while there is nothing else."""
        self._hint = text
        self.redraw()

    def redraw(self) -> None:
        """Show what is to be shown now."""
        if monotonic() > self._until:
            self._notice = ""
        text = f" {printable(self._trouble or self._notice or self._hint)}"
        self.update(Content.styled(text, NOTICED) if self._trouble else Content(text))


class Table(Vertical):
    """A heading and rows, of which one is chosen.

    Args:
        name: its id.
    """

    DEFAULT_CSS = """
    Table { height: auto; }
    Table .heading { height: 1; text-style: bold underline; }
    Table OptionList {
        border: none; padding: 0; height: auto; background: transparent; scrollbar-size-vertical: 1;
    }
    Table OptionList:focus { border: none; background-tint: transparent; }
    Table OptionList > .option-list--option { padding: 0; }
    Table OptionList > .option-list--option-highlighted {
        color: $foreground; background: transparent; text-style: bold;
    }
    Table OptionList:focus > .option-list--option-highlighted {
        color: $foreground; background: transparent; text-style: reverse;
    }
    Table OptionList > .option-list--option-hover { background: transparent; }
    """

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        # Kept, and not looked for: a reply may come while the screen is being taken down.
        self._heading = Line("", classes="heading")
        self._options = OptionList(markup=False)

    def compose(self) -> ComposeResult:
        """The heading and the list."""
        yield self._heading
        yield self._options

    @property
    def chosen(self) -> str | None:
        """The key of the row on which the cursor is; None if there are no rows."""
        option = self._options.highlighted_option
        return None if option is None else option.id

    def take_focus(self) -> None:
        """Let it have the keys, from the next one on."""
        self.screen.set_focus(self._options)

    def show(
        self,
        items: Iterable[T],
        columns: Sequence[Column[T]],
        key: Callable[[T], str],
        noticed: Container[str] = (),
    ) -> None:
        """Show other rows; the cursor stays on the row that it is on, or else at its place.

        Args:
            items: an item for each row.
            columns: its columns.
            key: what tells an item from others.
            noticed: the keys of those that are to be noticed.
        """
        options = self._options
        heading, lines = table_lines(items, columns, key, max(1, self.size.width - 1))  # a scroll bar takes one
        self._heading.show(heading)
        rows = {
            name: Content.styled(line, NOTICED) if name in noticed else Content(line)
            for name, line in lines.items()
        }
        before = [option.id for option in options.options]
        if before == [*rows]:
            for name, row in rows.items():
                if options.get_option(name).prompt != row:
                    options.replace_option_prompt(name, row)
            return
        chosen, place, scrolled = self.chosen, options.highlighted or 0, options.scroll_offset.y
        options.set_options(Option(row, id=name) for name, row in rows.items())
        if rows:
            names = [*rows]
            options.highlighted = names.index(chosen) if chosen in rows else min(place, len(names) - 1)
            options.scroll_to(y=scrolled, animate=False)
            options.scroll_to_highlight()


class Question(ModalScreen[bool]):
    """Asks whether to go on.

    Args:
        text: what is to be done.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("y", "answer(True)", "Yes"),
        ("n,escape,q,enter", "answer(False)", "No"),
    ]
    DEFAULT_CSS = """
    Question { align: center middle; }
    Question Line { width: auto; max-width: 90%; height: auto; padding: 1 3; border: solid $foreground; }
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """The question."""
        yield Line(Content(f"{self._text}\n\ny yes    n no"))

    def action_answer(self, answer: bool) -> None:
        """Take the answer."""
        self.dismiss(answer)


HELP = """\
/          filter: words that a job shows, and patterns such as
           error="Timeout*" task=shop.* tag=eu worker=web-* queue=mail
escape     end the filter, go back
up, down   choose a row        tab    go to the other table
1 to 5     running, failed, queued and scheduled jobs, workers
enter      open the job: its facts, why it waits, timeline, log
r  retry a failed job          c  cancel a job
d  delete a job                p  pause or resume the queue
o  order queues by queued jobs, or by name
space      read again at once  q  quit

Jobs are those of the chosen queue. Workers have as state:
serves, paused, draining (it stops), lost (its lease is over).
in/s and out/s are jobs sent and ended a second; the bars are
the last minutes, the present one at the right."""


class Help(ModalScreen[None]):
    """The keys, and what the words mean."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,question_mark,enter,space", "dismiss", "Close")]
    DEFAULT_CSS = """
    Help { align: center middle; }
    Help Line { width: auto; height: auto; padding: 1 2; border: solid $foreground; }
    """

    def compose(self) -> ComposeResult:
        """The text."""
        yield Line(Content(HELP))
