"""The chat in a terminal and in a pipe."""

import io
import json
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from selfdistill.chat import terminal
from selfdistill.chat.columns import Answer, Updates
from selfdistill.chat.terminal import TerminalChat, talk
from selfdistill.errors import printable
from tests.support.chat_fakes import FakeChat
from tests.support.mistakes import mistake


def written(console: Console) -> str:
    """What was printed on a console that writes into memory."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def piped(monkeypatch: pytest.MonkeyPatch, chat: FakeChat, lines: str, system: str | None = None) -> str:
    """What is printed where stdin is a pipe."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    console = Console(file=io.StringIO(), width=40)
    talk(chat, console, system)
    return written(console)


def live(chat: FakeChat, width: int = 100, height: int = 40) -> tuple[TerminalChat, Console]:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height)
    return TerminalChat(chat, console, live=True), console


def last_screen(console: Console) -> list[str]:
    """The lines that stay: what was drawn after the live display was taken away."""
    return written(console).rpartition("\x1b[?25h")[2].rpartition("\x1b[2K")[2].splitlines()


def test_one_model_in_a_pipe_gives_its_answer_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = "a [bold]word[/bold] " + "x" * 60  # neither markup nor a line break of the console's
    assert piped(monkeypatch, FakeChat(["A"], [reply]), "hi\n") == reply + "\n"


def test_two_models_in_a_pipe_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = FakeChat(["runs/a", "runs/b"], ["yes", "no"])
    out = piped(monkeypatch, chat, "one\n\ntwo\n/quit\nthree\n")
    assert out == "--- runs/a\nyes\n--- runs/b\nno\n" * 2
    assert [heard[0][-1]["content"] for heard in chat.heard] == ["one", "two"]


def test_reset_and_system(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = FakeChat(["A"], ["yes"])
    piped(monkeypatch, chat, "one\n/reset\ntwo\n/system Be brief.\nthree\n/reset\nfour\n/system\nfive\n", "Rhyme.")
    texts = [[message["content"] for message in heard[0]] for heard in chat.heard]
    assert texts == [["Rhyme.", "one"], ["Rhyme.", "two"], ["Be brief.", "three"], ["Be brief.", "four"], ["five"]]


def test_what_is_no_command_is_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = FakeChat(["A"], ["yes"])
    piped(monkeypatch, chat, "/usr/bin what is it?\n /reset\n")
    assert [heard[0][-1]["content"] for heard in chat.heard] == ["/usr/bin what is it?", " /reset"]
    assert "Unknown command /rest. Did you mean '/reset'?" in mistake(piped, monkeypatch, chat, "/rest\n")


def test_a_row_of_a_task_with_its_reference_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    from selfdistill.tasks.assistant_tools import evaluation_rows

    row = evaluation_rows()[3]
    chat = FakeChat(["A", "B"], [json.dumps(row.reference), "no"])
    out = piped(monkeypatch, chat, "/row assistant-tools 3\n", system="Rhyme.")
    assert chat.heard == [[list(row.prompt)] * 2]  # as in the evaluation, without the system prompt
    assert out.startswith(row.prompt[0]["content"])
    reference = json.dumps(row.reference, ensure_ascii=False)
    assert out.endswith(f"no\nreference: {reference}\nexact_call of A: 1\nexact_call of B: 0\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "for example: /row assistant-tools 3"),
        (["assistant-tool", "3"], "Did you mean 'assistant-tools'"),
        (["assistant-tools", "9999"], "no evaluation row 9999"),
    ],
)
def test_rows_that_are_not_there(words: Sequence[str], message: str) -> None:
    assert message in mistake(terminal.evaluation_row, words)


def test_two_panels_beside_each_other() -> None:
    chat, console = live(FakeChat(["runs/a", "runs/b"], ["yes [red]sir[/red]", "no\nnever"]))
    chat.take("hi")
    top, first, second, bottom = last_screen(console)
    assert [top.index("runs/a"), top.index("runs/b")] == [3, 53]
    assert "yes [red]sir[/red]" in first[:50]
    assert first[50:].strip("│ ") == "no"
    assert second[50:].strip("│ ") == "never"
    assert "2 tokens" in bottom[:50]
    assert all(len(line) == 100 for line in (top, first, second, bottom))


def test_panels_below_each_other_where_the_terminal_is_narrow() -> None:
    chat, console = live(FakeChat(["runs/a", "runs/b"], ["yes", "no"]), width=60)
    chat.take("hi")
    lines = last_screen(console)
    assert len(lines) == 6
    assert "runs/a" in lines[0]
    assert "runs/b" in lines[3]


def test_a_long_answer_shows_its_end_while_it_is_written_and_all_of_it_afterwards() -> None:
    reply = "\n".join(f"line{number}" for number in range(50))
    chat, console = live(FakeChat(["A"], [reply]), height=12)
    with console.capture() as capture:
        console.print(chat._panels([Answer(text=reply)], over=False))
    shown = capture.get()
    assert "line49" in shown
    assert "line40" not in shown
    assert shown.count("\n") <= 12
    chat.take("hi")
    assert all(f"line{number}" in "\n".join(last_screen(console)) for number in range(50))


def test_ctrl_c_stops_the_answer_and_not_the_chat() -> None:
    class Interrupted(FakeChat):
        def _updates(self) -> Updates:
            updates = super()._updates()
            yield next(updates)
            yield next(updates)
            raise KeyboardInterrupt

    fake = Interrupted(["A", "B"], ["one two", "three four"])
    chat, console = live(fake)
    assert chat.take("hi")
    assert "1 token, stopped" in last_screen(console)[-1]
    chat.take("on")
    assert [messages[1]["content"] for messages in fake.heard[1]] == ["one", "three"]


def test_at_a_terminal_mistakes_are_shown_and_the_chat_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    typed: Any = iter(["/rest", KeyboardInterrupt(), "hi", EOFError()])

    def read(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.delitem(sys.modules, "readline", raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", read)
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)
    fake = FakeChat(["A"], ["yes"])
    talk(fake, console)
    assert "Unknown command /rest" in written(console)
    assert len(fake.heard) == 1
    assert "readline" in sys.modules  # lines can be edited, and earlier ones called back


def test_an_answer_cannot_drive_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\nc\td\x9b") == "a\ufffd[2Jb\ufffd\nc\td\ufffd"
