"""Running the evidence's studies."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evidence.run import Study, measure_teacher, read_teachers, run
from selfdistill.cli import parse


def test_a_study_is_told_to_stop_with_the_program_that_runs_it() -> None:
    stops_its_parent = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    before = signal.getsignal(signal.SIGTERM)
    assert run([sys.executable, "-c", stops_its_parent]) == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert run([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_every_preflight_is_a_command(tmp_path: Path) -> None:
    teachers = list(read_teachers("full"))
    assert [teacher.name for teacher in teachers] == ["orders", "notes", "tickets", "assistant-tools"]
    for teacher in teachers:
        parse("preflight", teacher.arguments(tmp_path)[1:]).check()
    assert list(read_teachers("quick")) == []


def test_what_a_preflight_prints_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def done(command: list[str], **_: Any) -> Any:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout='{"num_rows": 8}\n')

    monkeypatch.setattr(subprocess, "run", done)
    teacher = Study(name="toy", command="preflight", options={"num_rows": 8})
    assert [measure_teacher(teacher, tmp_path) for _ in range(2)] == [0, 0]
    assert [command[3:] for command in commands] == [["preflight", "--json", "--num_rows", "8"]]
    assert json.loads((tmp_path / "teachers" / "toy.json").read_text()) == {"num_rows": 8}


def test_a_preflight_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 2, stdout=""))
    assert measure_teacher(Study(name="toy", command="preflight", options={}), tmp_path) == 2
    assert list(tmp_path.iterdir()) == []
