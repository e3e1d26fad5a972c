"""What is printed: no text of a row, a model or a file reaches the terminal as a command; lost output loses no run."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from selfdistill import cli
from selfdistill.errors import UserError
from selfdistill.progress import Output, PlainConsole

EVIL = "a\x1b[2J\x1b]0;title\x07\x9b31m\x00b"


@pytest.mark.parametrize("kind", ["print", "out", "text", "panel", "table", "rule"])
def test_no_control_character_of_a_text_is_printed(kind: str) -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=True, color_system="truecolor", width=80, highlight=False)
    if kind == "out":
        console.out(EVIL)
    elif kind == "rule":
        console.rule(EVIL)
    else:
        table = Table(title=EVIL)
        table.add_column(EVIL)
        table.add_row(EVIL)
        console.print({"print": EVIL, "text": Text(EVIL), "panel": Panel(EVIL, title=EVIL), "table": table}[kind])
    console.print("styled", style="red")
    printed = out.getvalue()
    for command in ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\x00"):
        assert command not in printed
    assert "\ufffd[2J" in printed
    assert "\x1b[31mstyled" in printed  # styles of the console's own stay


def test_an_error_is_printed_without_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> int:
        raise UserError(f"no such file: {EVIL}")

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "selfdistill: no such file: a\ufffd[2J\ufffd]0;title\ufffd\ufffd31m\ufffdb\n"


def test_characters_that_the_output_lacks_are_replaced() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    Output(file).write("ä│中\n")
    file.flush()
    assert file.buffer.getvalue() == "ä??\n".encode("cp1252")  # type: ignore[attr-defined]


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_rest_out_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def work(*_: Any) -> int:
        print("lost")
        ran.append("to the end")
        return 0

    monkeypatch.setattr(cli, "_dispatch", work)
    monkeypatch.setattr(sys, "stdout", Full())
    assert cli.main(["train"]) == 1
    assert ran == ["to the end"]
    assert "could not be written: No space left on device" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("shell", "code"), [("train --help | true", 0), ("tasks > /dev/full", 1)])
def test_a_reader_that_goes_ends_nothing_loudly(shell: str, code: int) -> None:
    command = f"set -o pipefail; {sys.executable} -m selfdistill {shell}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert ("could not be written" in done.stderr) == (code == 1)


def test_a_line_of_stdin_that_is_not_utf_8_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from selfdistill.chat.terminal import talk
    from tests.support.mistakes import mistake

    class Named:
        names = ("m",)

    # how Python reads a wrong byte differs by locale
    for stdin in (io.StringIO("\ncaf\udce9\n"), io.TextIOWrapper(io.BytesIO(b"\ncaf\xe9\n"), encoding="utf-8")):
        monkeypatch.setattr(sys, "stdin", stdin)
        told = mistake(talk, Named(), PlainConsole(file=io.StringIO()))
        assert "of standard input is not UTF-8" in told
