"""A ledger is killed, or its disk is full, at any operation while it learns a second skill."""

import errno
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from selfdistill import run_folder
from tests.faults.suite.failing import DISK, fail_at
from tests.faults.suite.fork import Number, Process, Ran
from tests.faults.suite.home import Home, kill_at
from tests.faults.suite.operations import Operation, Watch
from tests.support.ledger_home import Home as Scripted


def _learn(folder: Path, skill: str, prepare: Any = None, knows: Sequence[str] = ("first",)) -> Ran:
    """Learns a skill by the command, with a scripted model that knows some, has it afterwards and forgets nothing."""

    def act() -> int:
        from selfdistill.cli import main

        home = Scripted(folder, pytest.MonkeyPatch())
        home.knows = dict.fromkeys(knows, 20)
        home.after = {skill: 20}
        data = home.data(skill)
        if prepare is not None:
            prepare(folder / "memory")
        return main(["learn", "--ledger=memory", f"--dataset_path={data}", "--eval_share=0.5", "--method=sft"])

    return Process(folder, act).end()


def _taught(home: Home, name: str) -> Path:
    folder = home.trial(name)
    ran = _learn(folder, "first")
    assert ran.code == 0, ran
    return folder


def operations(home: Home) -> int:
    """The number of operations on files with which the second skill is learned."""
    counted = Number()

    def count(operation: Operation) -> None:
        counted.value += 1

    ran = _learn(_taught(home, "ledger-counted"), "second", lambda folder: Watch(folder, before=count).start())
    assert ran.code == 0, ran
    return counted.value


def _state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "memory" / run_folder.LEDGER).read_text())


def _first_version(folder: Path) -> dict[str, bytes]:
    place = folder / "memory" / run_folder.VERSIONS / "0001"
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def _look(folder: Path, before: dict[str, bytes]) -> list[str]:
    """What is wrong with a ledger after a fault, and after the next skill."""
    wrong: list[str] = []
    state = _state(folder)
    held = {1: ["first"], 2: ["first", "second"]}.get(state["current"])
    if state["held"] != held:
        wrong.append(f"version {state['current']} is current and holds {state['held']}")
    if state["current"] == 2 and not (folder / "memory" / run_folder.VERSIONS / "0002" / run_folder.GATE).is_file():
        wrong.append("version 2 is current and not whole")
    if _first_version(folder) != before:
        wrong.append("version 1 was changed")
    ran = _learn(folder, "third", knows=state["held"])
    wrong += ran.wrong(0)
    after = _state(folder)
    if after["held"] != [*state["held"], "third"]:
        wrong.append(f"the next skill left {after['held']}")
    left = [path.name for path in (folder / "memory").iterdir() if path.name.startswith(f"{run_folder.STAGING}-")]
    left += [path.name for path in (folder / "memory" / run_folder.VERSIONS).iterdir() if not path.name.isdecimal()]
    return wrong + [f"{name} was left" for name in left]


def killed(home: Home, folder: Path, at: int) -> list[str]:
    """Killed at an operation."""
    folder = _taught(home, folder.name)
    before = _first_version(folder)
    ran = _learn(folder, "second", partial(kill_at, at=at))
    wrong = [] if ran.killed else [f"it was not killed: {ran}"]
    return wrong + _look(folder, before)


def full(home: Home, folder: Path, at: int) -> list[str]:
    """The disk is full from an operation on."""
    folder = _taught(home, folder.name)
    before = _first_version(folder)
    ran = _learn(folder, "second", partial(fail_at, at=at, number=errno.ENOSPC))
    return ran.wrong(0, DISK) + _look(folder, before)
