"""The chat in a terminal, both answers side by side while they are written; plain lines where there is none."""

import contextlib
import json
import re
import sys
from collections.abc import Sequence
from contextlib import closing

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from selfdistill.chat.columns import Answer, Chat, Conversation
from selfdistill.errors import UserError, did_you_mean
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
"""Columns of a terminal from which two answers have room beside each other."""
COLOURS = ("cyan", "yellow")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def talk(chat: Chat, console: Console, system: str | None = None) -> None:
    """Answers what is typed until ctrl-D or /quit; where stdin is no terminal, every line of it.

    Raises:
        UserError: a line can't be answered, and it was not typed at a terminal.
    """
    terminal = TerminalChat(chat, console, system, live=sys.stdin.isatty() and console.is_terminal)
    if not terminal.live:
        for line in sys.stdin:
            if not terminal.take(line.rstrip("\r\n")):
                return
        return
    with contextlib.suppress(ImportError):
        pass  # gives input() its editing and history; Windows has its own
    console.print(Text(" · ".join(f"{name} {does}" for name, does in COMMANDS.items()), style="dim"))
    while True:
        try:
            # a prompt that the console printed would be lost when readline redraws the line
            if not terminal.take(input("\n> ")):
                return
        except KeyboardInterrupt:
            console.print("\n[dim]Ctrl-D or /quit leaves.[/dim]")
        except EOFError:
            console.print()
            return
        except UserError as error:
            console.print(f"[red]{escape(str(error))}[/red]")


class TerminalChat:
    """A conversation that is read from lines.

    Args:
        chat: who answers.
        console: where answers go.
        system: system prompt to start with.
        live: show answers while they are written, in panels; else as plain text once they are done.
    """

    def __init__(self, chat: Chat, console: Console, system: str | None = None, *, live: bool) -> None:
        self.live = live
        self._names = chat.names
        self._console = console
        self._system = system
        self._conversation = Conversation(chat, system)

    def take(self, line: str) -> bool:
        """Does what a line says; False where it says to leave. Lines like ``/usr/bin`` are no commands.

        Raises:
            UserError: an unknown command, or one or a prompt that can't be had.
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
        self._conversation.reset(None)  # asked as in the evaluation
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
        # a terminal echoes ctrl-C where the cursor is: after a line as wide as itself that would move all up by one
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
        """A panel an answer, whole once it is over; before that its last lines, as many as the terminal has."""
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
    """A task and the evaluation row that ``TASK N`` means: the one with N at the end of its id.

    Raises:
        UserError: there is none.
    """
    if len(words) != 2:
        raise UserError("/row takes a task and a row's number, for example: /row assistant-tools 3")
    task = get_task(words[0])
    examples = task.load_eval(resolve_data_dir(None))
    found = [example for example in examples if example.id.rpartition("/")[2] == words[1]]
    if not found:
        raise UserError(f"/row: {task.name} has no evaluation row {words[1]}. Its {len(examples)} begin with 0.")
    return task, found[0]


def printable(text: str) -> str:
    """The text without characters that a terminal would obey."""
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def _note(answer: Answer, over: bool) -> str:
    state = {"stop": "", "length": ", cut off"}.get(answer.finish_reason, ", stopped" if over else " …")
    return f"{answer.num_tokens} token{'' if answer.num_tokens == 1 else 's'}{state}"


def _tail(name: str, width: int) -> str:
    """The end of a long name, which is what tells two folders apart."""
    return name if len(name) <= width else "…" + name[1 - width :]
