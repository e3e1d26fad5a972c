"""The chat in a terminal, with both answers side by side while they are written; plain lines in a pipe."""

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib import import_module

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from selfdistill.chat.columns import Answer, Chat, Conversation
from selfdistill.errors import UserError, did_you_mean, printable
from selfdistill.tasks import get_task, resolve_data_dir
from selfdistill.tasks.task import Task
from selfdistill.types import Example, Message, message_text

COMMANDS = {
    "/reset": "starts anew",
    "/system TEXT": "sets the system prompt and starts anew",
    "/row TASK N": "asks the evaluation row whose id ends in N",
    "/quit": "leaves",
}
BESIDE = 80
"""Width of a terminal, in characters, from which two answers are shown side by side."""
COLOURS = ("cyan", "yellow")


def talk(chat: Chat, console: Console, system: str | None = None) -> None:
    """Answers each line typed until ctrl-D or /quit; if stdin is not a terminal, each line of stdin.

    Raises:
        UserError: a line of a pipe can't be answered. At a terminal the message is shown and the chat goes on.
    """
    terminal = TerminalChat(chat, console, system, live=sys.stdin.isatty() and console.is_terminal)
    if not terminal.live:
        for line in _piped_lines():
            if not terminal.take(line.rstrip("\r\n")):
                return
        return
    with contextlib.suppress(ImportError):
        import_module("readline")  # gives input() line editing and history; Windows has its own
    console.print(Text(" · ".join(f"{name} {does}" for name, does in COMMANDS.items()), style="dim"))
    while True:
        try:
            # input() must print the prompt: readline would erase one printed by the console
            if not terminal.take(input("\n> ")):
                return
        except KeyboardInterrupt:
            console.print("\n[dim]Ctrl-D or /quit leaves.[/dim]")
        except EOFError:
            console.print()
            return
        except UserError as error:
            console.print(f"[red]{escape(str(error))}[/red]")


def _piped_lines() -> Iterator[str]:
    """The lines of standard input. Raises UserError for one that is not UTF-8."""
    number = 0
    try:
        for number, line in enumerate(sys.stdin, start=1):  # noqa: B007
            line.encode()  # fails for what Python puts in the place of a wrong byte in some locales
            yield line
    except UnicodeDecodeError as error:
        raise UserError(f"Line {number + 1} of standard input is not UTF-8. Convert it to UTF-8.") from error
    except UnicodeEncodeError as error:
        raise UserError(f"Line {number} of standard input is not UTF-8. Convert it to UTF-8.") from error


class TerminalChat:
    """A conversation that takes one line at a time.

    Args:
        chat: answers the questions.
        console: where answers are printed.
        system: system prompt to start with.
        live: True to show answers in panels while they are written; False to print plain text once they are done.
    """

    def __init__(self, chat: Chat, console: Console, system: str | None = None, *, live: bool) -> None:
        self.live = live
        self._names = chat.names
        self._console = console
        self._system = system
        self._conversation = Conversation(chat, system)

    def take(self, line: str) -> bool:
        """Answers a line, or carries out the command in it. Text such as ``/usr/bin`` is not a command.

        Returns:
            False if the line ends the chat.

        Raises:
            UserError: the command is unknown or can't be carried out, or the prompt can't be answered.
        """
        if not line.strip():
            return True
        command, _, rest = line.partition(" ")
        if not re.fullmatch(r"/\w+", command):
            self._answer([{"role": "user", "content": line}])
        elif command == "/quit":
            return False
        elif command == "/reset":
            self._reset()
        elif command == "/system":
            self._system = rest.strip() or None
            self._reset()
        elif command == "/row":
            self._row(rest.split())
        else:
            known = [name.split()[0] for name in COMMANDS]
            raise UserError(f"Unknown command {command}.{did_you_mean(command, known)} Known: {', '.join(known)}.")
        return True

    def _reset(self) -> None:
        self._conversation.reset(self._system)
        self._console.print(f"[dim]A new conversation, system prompt: {escape(self._system or 'none')}.[/dim]")

    def _row(self, words: Sequence[str]) -> None:
        task, example = evaluation_row(words)
        self._conversation.reset(None)  # an evaluation has no system prompt and no earlier turns
        for turn in example.prompt:
            self._console.print(Text(printable(message_text(turn)), style="dim"), soft_wrap=True)
        answers = self._answer(example.prompt)
        reference = example.reference
        text = reference if isinstance(reference, str) else json.dumps(reference, ensure_ascii=False)
        self._console.print(Text(f"reference: {printable(text)}"), soft_wrap=True)
        metric, scorer = next(iter(task.scorers.items()))
        for name, answer in zip(self._names, answers, strict=True):
            score = scorer(answer.text, example)
            shown = "unscored" if score is None else f"{score:g}"
            self._console.print(Text(f"{metric} of {name}: {shown}"), soft_wrap=True)

    def _answer(self, turns: Sequence[Message]) -> list[Answer]:
        answers = [Answer()] * len(self._names)
        updates = self._conversation.ask(turns)
        if not self.live:
            for column, answer in updates:
                answers[column] = answer
            for name, answer in zip(self._names, answers, strict=True):
                if len(answers) > 1:
                    self._console.out(f"--- {name}", highlight=False)
                self._console.out(printable(answer.text), highlight=False)
            return answers
        # Ctrl-C is echoed at the cursor. After a line as wide as the terminal it would scroll the panels up by one.
        hint = Text("ctrl-C stops", style="dim")
        live = Live(
            get_renderable=lambda: Group(self._panels(answers, over=False), hint),
            console=self._console,
            refresh_per_second=10,
            transient=True,
        )
        with contextlib.suppress(KeyboardInterrupt), live, closing(updates):
            for column, answer in updates:
                answers[column] = answer
        self._console.print(self._panels(answers, over=True))
        return answers

    def _panels(self, answers: Sequence[Answer], *, over: bool) -> RenderableType:
        """One panel for each answer: all of it once it is ``over``, until then as many last lines as fit."""
        beside = self._console.width >= BESIDE or len(answers) == 1
        width = self._console.width // (len(answers) if beside else 1)
        room = (self._console.height - 1) // (1 if beside else len(answers)) - 2
        texts = [Text(printable(answer.text)).wrap(self._console, width - 4) for answer in answers]
        lines = [text if over else text[-max(room, 1) :] for text in texts]
        panels = [
            Panel(
                Text("\n").join(shown),
                title=Text(_tail(name, width - 8)),
                subtitle=_note(answer, over),
                title_align="left",
                subtitle_align="right",
                border_style=colour,
                height=max(len(other) for other in lines) + 2 if beside else None,
            )
            for name, answer, shown, colour in zip(self._names, answers, lines, COLOURS, strict=False)
        ]
        if not beside:
            return Group(*panels)
        grid = Table.grid(expand=True)
        for _ in panels:
            grid.add_column(ratio=1)
        grid.add_row(*panels)
        return grid


def evaluation_row(words: Sequence[str]) -> tuple[Task, Example]:
    """The task and the evaluation row named by ``TASK N``: the row whose id ends in ``/N``.

    Raises:
        UserError: there are not two words, or there is no such task or row.
    """
    if len(words) != 2:
        raise UserError("/row takes a task and the number of a row, for example: /row assistant-tools 3")
    task = get_task(words[0])
    examples = task.load_eval(resolve_data_dir(None))
    for example in examples:
        if example.id.rpartition("/")[2] == words[1]:
            return task, example
    raise UserError(f"/row: {task.name} has no evaluation row {words[1]}. It has {len(examples)}, the first is 0.")


def _note(answer: Answer, over: bool) -> str:
    """The number of tokens, and whether the answer was cut off or stopped or is still being written."""
    state = {"stop": "", "length": ", cut off"}.get(answer.finish_reason, ", stopped" if over else " …")
    return f"{answer.num_tokens} token{'' if answer.num_tokens == 1 else 's'}{state}"


def _tail(name: str, width: int) -> str:
    """The end of a long name, since that is where two folders differ."""
    return name if len(name) <= width else "…" + name[1 - width :]
