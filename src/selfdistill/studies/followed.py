"""What jobs that are made elsewhere tell, and how it is shown: as one table on a terminal, elsewhere as lines."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

WARNING = "Warning:"
"""Beginning of lines that stay on a terminal, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a job tells."""

    name: str
    """The job's."""
    who: str
    """The process that makes it."""
    text: str
    """A line that it printed; empty when it begins."""


class Board:
    """Where jobs leave what they tell, until it is read."""

    def __init__(self) -> None:
        self._lines: list[Line] = []

    def say(self, line: Line) -> None:
        """Leaves a line."""
        self._lines.append(line)

    def read(self) -> list[Line]:
        """The lines that were left since the last call."""
        lines, self._lines = self._lines, []
        return lines


@dataclass(slots=True, kw_only=True)
class Row:
    """A job in the table."""

    title: str
    state: str = "waits"
    who: str = ""
    text: str = ""


class Followed:
    """Shows what is known of jobs, from ``start`` to ``stop``.

    Args:
        console: where.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[str, Row] = {}
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def start(self) -> None:
        """Shows the table, on a terminal."""
        if self._live is not None:
            self._live.start()

    def stop(self) -> None:
        """Leaves the table as it is."""
        if self._live is not None:
            self._live.stop()

    def begin(self, name: str, title: str) -> None:
        """Adds a job, or that it is to be made once more."""
        self._rows.pop(name, None)
        self._rows[name] = Row(title=title)
        self._show()

    def say(self, lines: Sequence[Line]) -> None:
        """Shows what jobs have told."""
        for line in lines:
            row = self._rows[line.name]
            if line.text:
                row.text = line.text
                if self._live is None or line.text.startswith(WARNING):
                    self._console.print(f"  [dim]{escape(line.name)}:[/dim] {escape(line.text.strip())}")
            else:
                lost = f", since {row.who} was lost" if row.who else ""
                row.state, row.who, row.text = "runs", line.who, ""
                if self._live is None or lost:
                    self._console.print(f"[bold]{escape(row.title)}[/bold]: {escape(line.who)}{escape(lost)}")
        self._show()

    def end(self, name: str, state: str) -> None:
        """Notes how a job ended, in a word."""
        self._rows[name].state = state
        if self._live is None and state == "done":
            self._console.print(f"[bold]{escape(self._rows[name].title)}[/bold]: done")
        self._show()

    def table(self) -> Table:
        """All jobs, in the order in which they were begun."""
        table = Table("run", "state", "where", "what it said last")
        for row in self._rows.values():
            table.add_row(*map(escape, (row.title, row.state, row.who, row.text.strip())))
        return table

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
