"""The fault suite itself: what it takes for possible after a power cut, and that it sees what it is there to see."""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfdistill import run_folder
from selfdistill.checkpoints import commit as committing
from tests.faults.suite import images
from tests.faults.suite.fork import Process
from tests.faults.suite.home import Home
from tests.faults.suite.operations import Operation, Watch
from tests.faults.suite.power import MODES, ROOT, Event, Recorder, Tree, after_power_cut, state

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="paths of descriptors are read from /proc")

FILE, FOLDER = 1, 2
MADE = Event(kind="make", number=FILE, folder=ROOT, name="a")
WRITTEN = Event(kind="write", number=FILE, data=b"abcd")
FILE_SYNCED, ROOT_SYNCED = Event(kind="sync", number=FILE), Event(kind="sync", number=ROOT)
MOVED = Event(kind="move", number=FILE, folder=ROOT, name="b", source=ROOT, old="a")
REMOVED = Event(kind="remove", number=FILE, folder=ROOT, name="a")


def possible(*events: Event) -> list[Tree]:
    """All that 200 power cuts leave, each state once."""
    found: list[Tree] = []
    for number in range(200):
        tree = after_power_cut(list(events), MODES[number % len(MODES)], random.Random(number))
        if tree not in found:
            found.append(tree)
    return found


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((MADE, FILE_SYNCED), [{"a": b""}, {}]),
        ((MADE, ROOT_SYNCED), [{"a": b""}]),
        ((MADE, WRITTEN, FILE_SYNCED, ROOT_SYNCED), [{"a": b"abcd"}]),
        ((MADE, WRITTEN, FILE_SYNCED), [{"a": b"abcd"}, {}]),
        ((MADE, WRITTEN, FILE_SYNCED, ROOT_SYNCED, MOVED), [{"a": b"abcd"}, {"b": b"abcd"}]),
        ((MADE, WRITTEN, FILE_SYNCED, ROOT_SYNCED, MOVED, ROOT_SYNCED), [{"b": b"abcd"}]),
        ((MADE, ROOT_SYNCED, REMOVED), [{"a": b""}, {}]),
    ],
)
def test_what_was_synced_stays_and_the_rest_may_be_there(events: tuple[Event, ...], expected: list[Tree]) -> None:
    found = possible(*events)
    assert all(tree in expected for tree in found)
    assert all(tree in found for tree in expected)


def test_bytes_that_were_not_synced_are_there_in_part_or_as_zeros() -> None:
    more = Event(kind="write", number=FILE, data=b"abcdefgh")
    found = [tree["a"] for tree in possible(MADE, WRITTEN, FILE_SYNCED, ROOT_SYNCED, more)]
    assert {b"abcd", b"abcdefgh", b"abcdef", b"abcd\0\0"} <= set(found)
    assert all(data is not None and data.startswith(b"abcd") and len(data) <= 8 for data in found)


def test_operations_are_recorded(tmp_path: Path) -> None:
    """In the order in which they happen, whoever does them."""
    folder = tmp_path / "watched"
    (folder / "there").mkdir(parents=True)

    def act() -> int:
        recorder = Recorder(folder)
        Watch(folder, recorder.before, recorder.after).start()
        run_folder.write_text(folder / "new" / "a", "one")
        (folder / "new" / "b").write_text("two")
        os.replace(folder / "new" / "b", folder / "there" / "c")
        (folder / "new" / "a").unlink()
        kinds = [(event.kind, event.name) for event in recorder.events[recorder.start :]]
        temporary = kinds[2][1]
        assert temporary.startswith(".staging-a.")
        expected = [
            ("make", "new"), ("sync", ""), ("make", temporary), ("write", ""), ("sync", ""), ("move", "a"),
            ("sync", ""), ("make", "b"), ("write", ""), ("move", "c"), ("remove", "a"),
        ]  # fmt: skip
        assert kinds == expected, kinds
        assert state(recorder.events) == {"new": None, "there": None, "there/c": b"two"}
        return 0

    ended = Process(tmp_path, act).end()
    assert ended.code == 0, ended.said


@pytest.mark.parametrize("name", ["mkdir", "replace", "unlink", "fsync", "create", "open", "write", "serialize"])
def test_each_operation_can_fail(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()

    def fail(operation: Operation) -> None:
        if operation.name == name:
            operation.tear()
            raise OSError(f"no {operation.name}")

    def act() -> int:
        import safetensors.torch
        import torch

        def write() -> None:
            run_folder.write_text(folder / "new" / "a", "text")
            os.unlink(folder / "new" / "a")
            safetensors.torch.save_file({"x": torch.zeros(9)}, folder / "t")

        Watch(folder, fail).start()
        with pytest.raises(OSError, match=f"no {name}"):
            write()
        return 0

    assert Process(tmp_path, act).end().code == 0
    if name == "serialize":
        assert 0 < (folder / "t").stat().st_size < 9 * 4 + 60


# -- that it sees ----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.make()
    return home


def violations(home: Home, scenario: str) -> list[str]:
    """What is wrong after power cuts anywhere in a scenario."""
    found = images.recorded(home, scenario)
    names = [f"{scenario}.{at}.{mode}" for at in range(found.start, len(found.events) + 1) for mode in MODES]
    return [wrong for name in names for wrong in images.run_case(home, 0, name).wrong]


def moved_without_a_gap(folder: Path, write: Callable[[Path], None]) -> Any:
    """``install`` that leaves the manifest where it is until the new one comes."""
    staging = folder / f"{run_folder.STAGING}-model"
    staging.mkdir(parents=True)
    write(staging)
    manifest = committing.seal(staging)
    for name in (*manifest.files, run_folder.MANIFEST):
        run_folder.make_folder((folder / name).parent)
        os.replace(staging / name, folder / name)
        run_folder.sync((folder / name).parent)
    committing.shutil.rmtree(staging)
    return manifest


@pytest.mark.parametrize("scenario", ["replace", "install"])
def test_nothing_is_wrong_with_what_is_committed(home: Home, scenario: str) -> None:
    assert violations(home, scenario) == []


@pytest.mark.parametrize(
    ("scenario", "module", "name", "instead", "words"),
    [
        ("replace", committing, "sync_tree", lambda folder: None, "a power cut damaged checkpoint-1"),
        ("replace", committing, "sync", lambda folder: None, "what is taken for whole is not what was written"),
        ("install", images, "install", moved_without_a_gap, "the model is damaged although it was saved"),
    ],
)
def test_a_commit_that_leaves_something_out_is_seen(
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    scenario: str,
    module: Any,
    name: str,
    instead: Callable[..., Any],
    words: str,
) -> None:
    monkeypatch.setattr(module, name, instead)
    assert any(words in wrong for wrong in violations(home, scenario))
