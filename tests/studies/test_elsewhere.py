"""A study whose runs are made elsewhere: what is told, what comes back, what goes wrong on the way."""

import io
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill import run_folder
from selfdistill.checkpoints.manifest import File
from selfdistill.errors import DamagedFilesError, UserError
from selfdistill.studies import compare, continual
from selfdistill.studies.compare import Comparison
from selfdistill.studies.elsewhere import Made, make, order, sent_away
from selfdistill.studies.followed import Board, Followed, Line
from selfdistill.tasks import DATA_VARIABLE
from tests.support.mistakes import mistake
from tests.support.study_home import SHOWN, TASKS, comparison, printed, read, sequences, without_seconds

SHORT: dict[str, Any] = {"methods": "sft,sdft", "max_steps": 1, "checkpoints": 1, **SHOWN}
CELLS = ["sft/lr-0.01/seed-0", "sdft/lr-0.01/seed-0"]


class Inline:
    """An executor that makes jobs in this process, when it is asked which have ended, the last one first.

    Args:
        is_shared: whether it sees the study's folder.
    """

    def __init__(self, is_shared: bool = True) -> None:
        self.is_shared, self.orders, self.folders = is_shared, dict[str, bytes](), dict[str, Path]()
        self.made, self.said, self.cancelled = list[str](), list[str](), list[str]()
        self.fails: Callable[[str], None] = lambda name: None

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_: object) -> None:
        assert not self.orders

    def begin(self, name: str, title: str, order: Any, folder: Path) -> None:
        self.orders[name], self.folders[name] = pickle.dumps(order), folder

    def ended(self, seconds: float) -> list[str]:
        return list(self.orders)[-1:]

    def result(self, name: str) -> Any:
        told, folder = self.orders.pop(name), self.folders[name]
        self.made.append(name)
        self.fails(name)
        found = make(pickle.loads(told), folder if self.is_shared else folder.with_name("not here"), self.said.append)
        assert bool(found.contents) != self.is_shared
        found.put(folder)
        return found.record

    def cancel(self) -> None:
        self.cancelled += self.orders
        self.orders.clear()


def executed(monkeypatch: pytest.MonkeyPatch, executor: Inline) -> Inline:
    """The executor, which studies will take."""
    for module in (compare, continual):
        monkeypatch.setattr(module, "chosen_executor", lambda *_, **__: executor)
    return executor


# -- whole studies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_comparison_made_elsewhere_is_the_one_made_here(
    home: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    comparison(home, "here", **SHORT, save_models=True).run()
    executor = executed(monkeypatch, Inline(is_shared))
    comparison(home, **SHORT, save_models=True).run()
    assert executor.made == ["base.json", *reversed(CELLS)]
    assert any("on one: 24 rows" in line for line in executor.said)  # each arm says its settings
    here, out = home / "here", home / "out"
    assert without_seconds(read(out, "compare.json")) == without_seconds(read(here, "compare.json"))
    names = {path.relative_to(here) for path in here.rglob("*") if path.is_file()}
    assert {path.relative_to(out) for path in out.rglob("*") if path.is_file()} == names
    for place in CELLS:
        assert read(out / place, "run_config.json")["settings"]["output_dir"] == str(out / place)
        assert (out / place / "model.safetensors").read_bytes() == (here / place / "model.safetensors").read_bytes()
    written = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert [path for path in written if b".work" in path.read_bytes() or b"attempt-" in path.read_bytes()] == []


def test_sequences_made_elsewhere_are_those_made_here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = ",".join(str(home / f"{task}.jsonl") for task in TASKS[:2])
    own: dict[str, Any] = {"methods": "sft,sdft", "max_steps": 1, "replay": 0.2, "stages": stages, **SHOWN}
    sequences(home, "here", **own).run()
    executor = executed(monkeypatch, Inline())
    sequences(home, **own).run()
    places = [f"{arm}/stage-{number}-{task}" for arm in ("sdft", "sft") for number, task in ((1, "one"), (2, "two"))]
    assert sorted(executor.made) == ["base.json", *places]
    assert without_seconds(read(home, "out", "continual.json")) == without_seconds(read(home, "here", "continual.json"))
    assert len(list((home / "out").rglob("*.safetensors"))) == 2  # of the last stages


def test_stages_are_not_made_where_those_before_are_not_seen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed(monkeypatch, Inline(is_shared=False))
    own = {"methods": "sft", "max_steps": 1}
    said = mistake(sequences(home, **own).run)
    assert "sft, stage 1 of 3: one failed in 2 processes: " in said
    assert f" does not see {home / 'out'}, where the stage before is: share it among all machines." in said
    assert sequences(home, "one", stages=str(home / "one.jsonl"), **own).run().runs[0].tasks == ["one"]


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_run_that_fails_elsewhere_is_tried_once_more_and_the_others_go_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, study = executed(monkeypatch, Inline()), dict[str, Any](SHORT, methods="sft", seeds="0,1")
    broken: list[Exception] = [UserError("The memory is full."), UserError("The memory is full.")]

    def fails(name: str) -> None:
        if name == CELLS[0] and broken:
            raise broken.pop()

    executor.fails = fails
    said = mistake(comparison(home, **study).run)
    assert said == (
        "cell 1 of 2: sft, lr 0.01, seed 0 failed in 2 processes: The memory is full. Mend that, and give the same "
        "command again."
    )
    assert executor.made.count(CELLS[0]) == 2
    assert sum((home / "out" / name / "cell.json").is_file() for name in executor.made) == 1
    executor.made.clear()
    broken.append(DamagedFilesError("It did not arrive."))
    shown = printed(lambda console: comparison(home, "out", console, **study).run())
    assert "cell 1 of 2: sft, lr 0.01, seed 0 failed: It did not arrive." in shown
    assert executor.made == [CELLS[0]] * 2
    assert (home / "out" / "compare.json").is_file()


def test_a_study_that_is_told_to_stop_ends_what_was_begun_and_gives_it_back(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = executed(monkeypatch, Inline())

    def stops(name: str) -> None:
        if name == CELLS[1]:
            raise KeyboardInterrupt

    executor.fails = stops
    with pytest.raises(KeyboardInterrupt):
        comparison(home, **SHORT).run()
    assert executor.cancelled == CELLS[:1]
    assert not (home / "out" / run_folder.WORK).exists()
    executor.fails = lambda name: None
    comparison(home, **SHORT).run()
    assert executor.made == ["base.json", CELLS[1], *reversed(CELLS)]


def test_other_rows_elsewhere_are_refused(home: Path) -> None:
    study = comparison(home, **SHORT)
    told = order(study, Comparison.score_base, None)
    other = replace(told, data=told.data | {"training rows of one": "0123456789ab"})
    said = mistake(make, other, home / "nowhere", print)
    assert said.endswith("has another training rows of one than the study. Give all machines the same files.")
    assert isinstance(make(told, home / "nowhere", lambda text: None), Made)


def test_memory_is_checked_where_a_run_is_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bool] = []
    monkeypatch.setattr("selfdistill.studies.runs.require_memory", lambda prepared: checked.append(True))
    study = comparison(home, executor="ray", **SHORT)
    study.check()
    assert checked == []
    make(order(study, Comparison.score_base, None), home / "nowhere", lambda text: None)
    assert len(checked) == 2  # of both arms


@pytest.mark.parametrize(("broken", "message"), [(b"else", "is not as it was made"), (None, "did not arrive")])
def test_files_that_are_not_those_that_were_made_are_refused(
    tmp_path: Path, broken: bytes | None, message: str
) -> None:
    (tmp_path / "attempt-1" / "arm").mkdir(parents=True)
    file = tmp_path / "attempt-1" / "arm" / "cell.json"
    file.write_bytes(b"made")
    digest = "8b5d0bb9c0c1c7c0b3e1b2f5"  # of nothing: even the size is another
    wanted = Made(record=1, files={"arm/cell.json": File(bytes=9, blake2b=digest)}, attempt="attempt-1", contents={})
    if broken is None:
        file.unlink()
    else:
        file.write_bytes(broken)
    with pytest.raises(DamagedFilesError, match=message):
        wanted.put(tmp_path)


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_whole_lines_are_told() -> None:
    told: list[str] = []
    console = sent_away(told.append)
    console.print("one\n\ntwo")
    console.print("thr", end="")
    assert told == ["one", "two"]
    console.print("ee  ")
    assert told == ["one", "two", "three"]


def test_what_runs_tell_is_shown_line_by_line_or_as_one_table() -> None:
    board = Board()
    for who, text in (("process 7 on a", ""), ("process 7 on a", "step 1"), ("process 8 on b", "")):
        board.say(Line(name="arm/seed-0", who=who, text=text))
    lines = board.read()
    assert board.read() == []

    def follow(console: Console) -> Followed:
        followed = Followed(console)
        followed.start()
        followed.begin("arm/seed-0", "cell 1 of 2: [arm]")
        followed.begin("arm/seed-1", "cell 2 of 2: [arm]")
        followed.say(lines)
        followed.say([Line(name="arm/seed-0", who="process 8 on b", text="step 2")])
        followed.end("arm/seed-0", "done")
        followed.stop()
        return followed

    assert printed(follow).splitlines() == [
        "cell 1 of 2: [arm]: process 7 on a",
        "  arm/seed-0: step 1",
        "cell 1 of 2: [arm]: process 8 on b, since process 7 on a was lost",
        "  arm/seed-0: step 2",
        "cell 1 of 2: [arm]: done",
    ]
    table = follow(Console(file=io.StringIO(), force_terminal=True, width=100)).table()
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows == [
        ("cell 1 of 2: \\[arm]", "done", "process 8 on b", "step 2"),
        ("cell 2 of 2: \\[arm]", "waits", "", ""),
    ]


def test_an_order_carries_the_folder_that_the_environment_names(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(home))
    told = order(comparison(home, **SHORT), Comparison.score_base, None)
    monkeypatch.setenv(DATA_VARIABLE, "")  # which the test restores, whatever it becomes
    monkeypatch.delenv(DATA_VARIABLE)
    make(told, home / "nowhere", lambda text: None)
    assert os.environ[DATA_VARIABLE] == str(home)
