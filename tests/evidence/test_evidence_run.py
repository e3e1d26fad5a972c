"""Running the evidence's studies."""

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pytest

from evidence.crew import Crew, Errand
from evidence.run import FACTS, Study, begin, measure_teacher, read_teachers, run
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


def test_every_machine_that_goes_on_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day, cpu in ((1, "first"), (2, "first"), (3, "second"), (4, "second"), (5, "first")):
        monkeypatch.setattr("evidence.run.machine", lambda day=day, cpu=cpu: {"cpu": cpu, "date": str(day)})
        begin(tmp_path, "full")
    facts = json.loads((tmp_path / FACTS).read_text())
    assert facts["machine"] == {"cpu": "first", "date": "1"}
    assert facts["continued_on"] == [{"cpu": "second", "date": "3"}]
    with pytest.raises(SystemExit, match="holds the full size"):
        begin(tmp_path, "gpu")


def test_workers_share_errands_out_and_go_on_where_one_fails(tmp_path: Path) -> None:
    at, most, begun = Counter[str](), Counter[str](), Counter[str]()
    together = threading.Barrier(3)  # the study's workers wait for each other: three are at it at once

    def do(name: str, code: int, log: TextIO | None) -> int:
        begun[name] += 1
        at[name] += 1
        most[name] = max(most[name], at[name])
        if name == "study":
            together.wait(timeout=20)
        at[name] -= 1
        print(f"{name} is over", file=log)
        return code

    errands = [
        Errand("alone", partial(do, "alone", 4), several=False),
        Errand("study", partial(do, "study", 0), several=True),
    ]
    assert Crew(errands, tmp_path).work(3) == 4
    assert (most["alone"], begun["alone"]) == (1, 1)
    assert (most["study"], begun["study"]) == (3, 3)
    logs = "".join(path.read_text() for path in tmp_path.glob("worker-*.log"))
    assert (logs.count("alone is over"), logs.count("study is over")) == (1, 3)


def test_a_crew_that_is_stopped_ends_its_processes_and_begins_nothing(tmp_path: Path) -> None:
    begun: list[str] = []

    def sleep(name: str, log: TextIO | None) -> int:
        begun.append(name)
        return run([sys.executable, "-c", "import time; time.sleep(60)"], log)

    crew = Crew([Errand(name, partial(sleep, name), several=False) for name in ("a", "b", "c")], tmp_path)
    stop = threading.Timer(1.0, crew.stop)
    stop.start()
    assert crew.work(2) == -signal.SIGTERM
    assert begun == ["a", "b"]
