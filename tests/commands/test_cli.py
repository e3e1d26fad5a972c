"""The command line: help, exit codes, names that are misspelt, ``~``, files with settings."""

import errno
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from selfdistill import __version__, cli
from selfdistill.cli import COMMANDS
from selfdistill.commands import recipes as recipes_command
from selfdistill.errors import DamagedFilesError, DiskError, NumbersError, StoppedError, TerminatedError
from tests.support.options import OPTIONS
from tests.support.tiny_home import TinyHome


def python(*code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=False)


# -- help ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_at_once_and_without_torch(command: str) -> None:
    done = python(
        "import sys, time",
        "start = time.process_time()",
        "from selfdistill.cli import main",
        "for more in ([], ['--config', 'sdft-cpu'], ['--config=demo-cpu']):",
        f"    try: main([{command!r}, '--help', *more])",
        "    except SystemExit as stop: assert stop.code == 0",
        "    assert time.process_time() - start < 3",
        "    start = time.process_time()",
        "assert not {'torch', 'transformers', 'datasets', 'altair'} & set(sys.modules)",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"usage: selfdistill {command} ") == 3
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_wrong_flag_is_told_in_colour_only_where_colour_is_wanted(no_color: str) -> None:
    shown, terminal = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color}
    command = [sys.executable, "-m", "selfdistill", "train", "--foo"]
    done = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(terminal)
    os.close(shown)
    assert done.returncode == 2
    assert b"--foo" in done.stderr
    assert (b"\x1b[" in done.stderr) == (not no_color)


def test_help_of_the_program_names_every_command_and_fits_the_screen(home: TinyHome) -> None:
    for word in ("--help", "-h", "help"):
        said = home.run(word)
        assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for command in COMMANDS:
        assert any(line.startswith(f"  {command} ") for line in lines)
    nothing = home.run()
    assert (nothing.code, nothing.out) == (2, said.out)


def test_version(home: TinyHome) -> None:
    assert home.run("--version") == (0, f"selfdistill {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_a_module_that_runs_it(command: str) -> None:
    assert callable(import_module(f"selfdistill.commands.{command}").run)
    assert (OPTIONS[command].__doc__ or "").strip()


def test_no_module_of_the_commands_is_without_a_command() -> None:
    modules = {path.stem for path in Path(recipes_command.__file__).parent.glob("*.py")} - {"__init__"}
    assert modules == set(COMMANDS)


# -- exit codes ---------------------------------------------------------------------------------------------------


def test_done_is_0_and_a_mistake_2(home: TinyHome) -> None:
    assert home.run("recipes").code == 0
    assert "--output_dir is missing" in home.refused("train")


def test_a_wrong_flag_is_2_and_the_right_one_is_named(home: TinyHome, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--lerning_rate", "1"])
    assert stop.value.code == 2
    assert "--learning_rate" in capsys.readouterr().err


def test_interrupted_is_130(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes_command, "run", interrupted)
    assert home.run("recipes") == (130, "", "selfdistill: interrupted\n")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (NumbersError("Not finite."), 4, "Not finite."),
        (DiskError("Full."), 5, "Full."),
        (DamagedFilesError("Damaged."), 6, "Damaged."),
        (StoppedError("Stopped.", signal.SIGTERM), 143, "Stopped."),
        (TerminatedError(), 143, "terminated"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/x"),
            5,
            "out/x: No space left on device. Mend that, and give the same command again.",
        ),
        (MemoryError(), 2, "the memory is full. Close other programs, or take a smaller model or batch."),
    ],
)
def test_each_kind_of_error_has_its_code(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(recipes_command, "run", fail)
    assert home.run("recipes") == (code, "", f"selfdistill: {said}\n")


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), ConnectionResetError(104, "reset"), OSError("odd")])
def test_faults_of_the_program_are_told_in_full(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(recipes_command, "run", fail)
    with pytest.raises(type(error)) as caught:
        home.run("recipes")
    assert caught.value is error


def test_a_signal_to_terminate_ends_a_command_and_is_then_what_it_was(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def wait(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(recipes_command, "run", wait)
    assert home.run("recipes") == (143, "", "selfdistill: terminated\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_command_returns_is_the_exit_code(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes_command, "run", lambda *_: 3)
    assert home.run("recipes").code == 3


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], "Unknown command 'trian'. Did you mean 'train'? Try selfdistill --help."),
        (["train", "--config=sdft-cpuu"], "--config sdft-cpuu: no such file or recipe. Did you mean 'sdft-cpu'?"),
        (["demo", "--config=demo-cp"], "--config demo-cp: no such file or recipe. Did you mean 'demo-cpu'?"),
        (["train", "--config=c.yml"], "--config c.yml: no such file or recipe. Did you mean 'c.yaml'?"),
        (["train", "--output_dir=out", "--dataset_name=tool-use"], "Did you mean 'tooluse'?"),
        (["eval", "--output_dir=e", "--dataset_name=tooluze"], "Did you mean 'tooluse'?"),
        (["continual", "--output_dir=c", "--stages=sience"], "Did you mean 'science'?"),
        (["learn", "--ledger=m", "--dataset_name=sience"], "Did you mean 'science'?"),
        (["train", "--output_dir=out", "--model_name=smollm2-153m"], "smollm2-135m"),
        (["train", "--output_dir=out", "--model_name=M", "--set=adam_beta_1=1"], "Did you mean 'adam_beta1'?"),
    ],
)
def test_the_likely_name_is_told(home: TinyHome, argv: list[str], words: str) -> None:
    home.yaml("c.yaml", seed=1)
    assert words in home.refused(*argv)
    assert not (home.folder / "out").exists()


def test_hyphens_work_like_underscores() -> None:
    assert cli.parse("train", ["--output-dir=out"]) == cli.parse("train", ["--output_dir", "out"])


def test_a_home_folder_that_is_nobodys_is_a_mistake(home: TinyHome) -> None:
    said = home.refused("train", "--output_dir=~nobody-of-that-name/x")
    assert "~nobody-of-that-name/x: there is no user of that name" in said
    assert "there is no user of that name" in home.refused("demo", "--config=~nobody-of-that-name.yaml")
