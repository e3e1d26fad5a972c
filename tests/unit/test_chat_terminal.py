"""The chat in a terminal and in a pipe."""

import io
import json
import sys

import pytest
from chat_fakes import FakeChat
from rich.console import Console

from selfdistill.chat import terminal
from selfdistill.chat.terminal import TerminalChat, printable, talk
from selfdistill.cli import main
from selfdistill.types import UserError


def piped(monkeypatch, chat, lines: str, system: str | None = None) -> str:
    """What is printed where stdin is a pipe."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    console = Console(file=io.StringIO(), width=40)
    talk(chat, console, system)
    return console.file.getvalue()


def live(chat, width=100, height=40) -> tuple[TerminalChat, Console]:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height)
    return TerminalChat(chat, console, live=True), console


def last_screen(console: Console) -> list[str]:
    """The lines that stay: what was drawn after the live display was taken away."""
    return console.file.getvalue().rpartition("\x1b[?25h")[2].rpartition("\x1b[2K")[2].splitlines()


def test_one_model_in_a_pipe_gives_its_answer_and_nothing_else(monkeypatch):
    reply = "a [bold]word[/bold] " + "x" * 60  # neither markup nor a line break of the console's
    assert piped(monkeypatch, FakeChat(["A"], [reply]), "hi\n") == reply + "\n"


def test_two_models_in_a_pipe_are_named(monkeypatch):
    chat = FakeChat(["runs/a", "runs/b"], ["yes", "no"])
    out = piped(monkeypatch, chat, "one\n\ntwo\n/quit\nthree\n")
    assert out == "--- runs/a\nyes\n--- runs/b\nno\n" * 2
    assert [heard[0][-1]["content"] for heard in chat.heard] == ["one", "two"]


def test_reset_and_system(monkeypatch):
    chat = FakeChat(["A"], ["yes"])
    piped(monkeypatch, chat, "one\n/reset\ntwo\n/system Be brief.\nthree\n/reset\nfour\n/system\nfive\n", "Rhyme.")
    texts = [[message["content"] for message in heard[0]] for heard in chat.heard]
    assert texts == [["Rhyme.", "one"], ["Rhyme.", "two"], ["Be brief.", "three"], ["Be brief.", "four"], ["five"]]


def test_what_is_no_command_is_a_question(monkeypatch):
    chat = FakeChat(["A"], ["yes"])
    piped(monkeypatch, chat, "/usr/bin what is it?\n /reset\n")
    assert [heard[0][-1]["content"] for heard in chat.heard] == ["/usr/bin what is it?", " /reset"]
    with pytest.raises(UserError, match=r"Unknown command /rest\. Did you mean '/reset'\?"):
        piped(monkeypatch, chat, "/rest\n")


def test_a_row_of_a_task_with_its_reference_and_scores(monkeypatch):
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
def test_rows_that_are_not_there(words, message):
    with pytest.raises(UserError, match=message):
        terminal.evaluation_row(words)


def test_two_panels_beside_each_other():
    chat, console = live(FakeChat(["runs/a", "runs/b"], ["yes [red]sir[/red]", "no\nnever"]))
    chat.take("hi")
    top, first, second, bottom = last_screen(console)
    assert [top.index("runs/a"), top.index("runs/b")] == [3, 53]
    assert "yes [red]sir[/red]" in first[:50]
    assert first[50:].strip("│ ") == "no"
    assert second[50:].strip("│ ") == "never"
    assert "2 tokens" in bottom[:50]
    assert all(len(line) == 100 for line in (top, first, second, bottom))


def test_panels_below_each_other_where_the_terminal_is_narrow():
    chat, console = live(FakeChat(["runs/a", "runs/b"], ["yes", "no"]), width=60)
    chat.take("hi")
    lines = last_screen(console)
    assert len(lines) == 6
    assert "runs/a" in lines[0]
    assert "runs/b" in lines[3]


def test_a_long_answer_shows_its_end_while_it_is_written_and_all_of_it_afterwards():
    reply = "\n".join(f"line{number}" for number in range(50))
    chat, console = live(FakeChat(["A"], [reply]), height=12)
    with console.capture() as capture:
        console.print(chat._panels([terminal.Answer(text=reply)], over=False))
    shown = capture.get()
    assert "line49" in shown
    assert "line40" not in shown
    assert shown.count("\n") <= 12
    chat.take("hi")
    assert all(f"line{number}" in "\n".join(last_screen(console)) for number in range(50))


def test_ctrl_c_stops_the_answer_and_not_the_chat():
    class Interrupted(FakeChat):
        def _updates(self):
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


def test_at_a_terminal_mistakes_are_shown_and_the_chat_goes_on(monkeypatch):
    typed = iter(["/rest", KeyboardInterrupt(), "hi", EOFError()])

    def read(prompt):
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", read)
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)
    fake = FakeChat(["A"], ["yes"])
    talk(fake, console)
    assert "Unknown command /rest" in console.file.getvalue()
    assert len(fake.heard) == 1


def test_an_answer_cannot_drive_the_terminal():
    assert printable("a\x1b[2Jb\x07\r\nc\td\x9b") == "a\ufffd[2Jb\ufffd\nc\td\ufffd"


def test_the_second_model_is_named_by_its_flag(capsys, tmp_path, monkeypatch):
    assert main(["chat", "--against", str(tmp_path / "nowhere")]) == 2
    assert "--against" in (error := capsys.readouterr().err)
    assert "--model_name" not in error


@pytest.mark.model
def test_the_embedded_model_answers_a_pipe_and_is_loaded_once(monkeypatch, capsys):
    from selfdistill.models import loading

    loaded = []
    load = loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda name, **options: loaded.append(name) or load(name, **options))
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is the capital of France?\n"))
    assert main(["chat", "--against", "smollm2-135m", "--max_new_tokens", "12", "--dtype", "float32"]) == 0
    out = capsys.readouterr().out
    first, second = out.removeprefix("--- smollm2-135m\n").split("--- smollm2-135m\n")
    assert "Paris" in first
    assert first == second
    assert loaded == ["smollm2-135m"]
