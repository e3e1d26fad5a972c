"""A training process that is killed (SIGKILL) at any moment, and the same command started again."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from selfdistill.checkpoints.find import newest_valid
from selfdistill.cli import main
from tests.support.faults import OPERATIONS
from tests.support.tiny_home import TinyHome, train

LINE = ("--max_steps=4", "--save_steps=1", "--set=save_total_limit=2", "--learning_rate=1e-2")
TIMES = ("wall_seconds", "seconds/", "train_runtime", "train_samples_per_second", "train_steps_per_second")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> TinyHome:
    return TinyHome(tmp_path, monkeypatch, capsys)


def _run(argv: tuple[str, ...], at: int, counted: Any) -> None:
    """The command, in a process that is killed as it is about to do operation ``at`` on the file system."""

    def watched(real: Any) -> Any:
        def operation(*arguments: Any, **options: Any) -> Any:
            counted.value += 1
            if counted.value == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return operation

    for name in OPERATIONS:
        setattr(os, name, watched(getattr(os, name)))
    os._exit(main(argv))


def run(argv: tuple[str, ...], at: int = 0) -> tuple[int, int]:
    """Exit code of the command, negative for a signal, and the number of its operations."""
    context = multiprocessing.get_context("fork")
    counted = context.Value("i", 0)
    process = context.Process(target=_run, args=(argv, at, counted))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, counted.value


def records(home: TinyHome, folder: str) -> Any:
    metrics = [
        {name: value for name, value in line.items() if not name.startswith(TIMES)}
        for line in home.lines(f"{folder}/metrics.jsonl")
    ]
    weights = (home.folder / folder / "model.safetensors").read_bytes()
    return weights, metrics, home.lines(f"{folder}/rollouts.jsonl")


def test_the_same_command_ends_as_if_nothing_had_happened(home: TinyHome) -> None:
    """Killed at three moments spread over the run, each time in another folder."""
    code, operations = run(train(*LINE, output="whole"))
    assert code == 0
    whole = records(home, "whole")
    assert operations > 100
    for number, at in enumerate(range(operations // 7, operations, operations // 3)):
        folder = f"cut-{number}"
        assert run(train(*LINE, output=folder), at)[0] == -signal.SIGKILL
        assert newest_valid(home.folder / folder).damaged == ()
        assert run(train(*LINE, output=folder))[0] == 0
        assert records(home, folder) == whole, at
        left = {path.name for path in (home.folder / folder).iterdir() if path.is_dir()}
        assert left == {"checkpoint-3", "checkpoint-4"}, at
