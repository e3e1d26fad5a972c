"""What a command prints: the console, the streams below it, and the progress bar of training and evaluation."""

import contextlib
import io
import os
import sys
from collections.abc import Generator, Iterable
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from selfdistill.errors import printable


class PlainConsole(Console):
    """A console on which no text of a row, a model or a file can move the cursor, change colours or set the title."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As in Console, with a replacement character for each control character; rich's own styles stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class Output:
    """A text stream that writes what it can: characters that its encoding lacks are replaced, and once the reader is
    gone or the disk is full the rest is left out, so that a run goes on and its model is saved.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        """Why the rest was left out; None if nothing was."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the text. Returns its length, whatever was written of it."""
        if self.failure is None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    encoding = self._stream.encoding or "ascii"
                    self._stream.write(text.encode(encoding, "replace").decode(encoding))
            except OSError as error:
                self._give_up(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Writes what was buffered."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = error
        with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
            nothing = os.open(os.devnull, os.O_WRONLY)  # takes what is buffered still
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)


@contextlib.contextmanager
def plain_output() -> Generator[Output]:
    """Puts an Output in the place of standard output and of standard error; yields that of standard output."""
    before = sys.stdout, sys.stderr
    out, errors = Output(before[0]), Output(before[1])
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, errors)
    try:
        yield out
    finally:
        out.flush()
        sys.stdout, sys.stderr = before


def progress_bar(console: Console) -> Progress:
    """A progress bar, shown on terminals only. Every task added to it needs a field ``note``."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
