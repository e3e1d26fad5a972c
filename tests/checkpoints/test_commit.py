"""A folder is there whole or not at all, whatever happens while it is written."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from selfdistill.checkpoints.commit import commit, install, remove, tidy
from selfdistill.checkpoints.find import checkpoints_in, newest_valid, retain
from selfdistill.checkpoints.manifest import DamagedError, verify
from selfdistill.run_folder import write_text
from tests.support.faults import Disk, KilledError, faults


def files(content: str) -> Callable[[Path], None]:
    """Writes a model and, in a subfolder, a state."""

    def write(folder: Path) -> None:
        (folder / "state").mkdir()
        for name in ("model", "config.json", "state/optimizer"):
            (folder / name).write_text(f"{content} {name}")

    return write


def content(folder: Path) -> str:
    """Which write the files of a folder are of; they must all be of one."""
    found = {path.read_text().split()[0] for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"}
    assert len(found) == 1, found
    return found.pop()


def damage(folder: Path) -> str | None:
    """What is wrong with the files that the folder's manifest lists."""
    try:
        verify(folder, others=True)
    except DamagedError as error:
        return str(error)
    return None


def test_what_is_committed_is_there_and_listed(tmp_path: Path) -> None:
    commit(tmp_path / "checkpoint-1", files("one"))
    manifest = verify(tmp_path / "checkpoint-1")
    assert sorted(manifest.files) == ["config.json", "model", "state/optimizer"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    commit(tmp_path / "checkpoint-1", files("two"))
    assert content(tmp_path / "checkpoint-1") == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_every_file_and_folder_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def noted_replace(source: str, target: str) -> None:
        events.append(Path(target).name)
        if Path(target).name == "checkpoint-1":
            staged = str(source)
            for name in ("", "/model", "/config.json", "/state", "/state/optimizer"):
                assert f"{staged}{name}" in synced, name
            assert synced[-1] == staged  # with the manifest's name in it
            synced.clear()
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    commit(tmp_path / "checkpoint-1", files("one"))
    assert events == ["manifest.json", "checkpoint-1"]
    assert synced == [str(tmp_path)]


@pytest.mark.parametrize("killed", [False, True], ids=["full", "killed"])
def test_a_new_folder_is_whole_or_not_there(tmp_path: Path, killed: bool) -> None:
    number, newest = 0, ""
    for number, disk in enumerate(faults(killed)):
        parent = tmp_path / str(number)
        parent.mkdir()
        commit(parent / "checkpoint-1", files("one"))
        with disk:
            try:
                commit(parent / "checkpoint-2", files("two"))
            except (OSError, KilledError):
                assert disk.failed
        if not killed:
            assert not list(parent.glob(".staging*"))
        tidy(parent)
        assert {path.name for path in parent.iterdir()} <= {"checkpoint-1", "checkpoint-2"}
        found = newest_valid(parent)
        assert found.newest is not None
        assert found.damaged == ()
        newest = found.newest.name
        assert content(found.newest) == {"checkpoint-1": "one", "checkpoint-2": "two"}[newest]
        commit(parent / "checkpoint-2", files("three"))
        assert content(parent / "checkpoint-2") == "three"
    assert number > 8
    assert newest == "checkpoint-2"  # nothing failed the last time


@pytest.mark.parametrize("killed", [False, True], ids=["full", "killed"])
def test_a_folder_that_is_replaced_is_the_old_one_or_the_new_one(tmp_path: Path, killed: bool) -> None:
    number = 0
    for number, disk in enumerate(faults(killed)):
        parent = tmp_path / str(number)
        parent.mkdir()
        commit(parent / "checkpoint-1", files("old"))
        with disk:
            try:
                commit(parent / "checkpoint-1", files("new"))
            except (OSError, KilledError):
                assert disk.failed
        tidy(parent)
        verify(parent / "checkpoint-1")
        last = content(parent / "checkpoint-1")
        assert last in ("old", "new")
        assert [path.name for path in parent.iterdir()] == ["checkpoint-1"]
    assert content(tmp_path / str(number) / "checkpoint-1") == "new"


@pytest.mark.parametrize("killed", [False, True], ids=["full", "killed"])
def test_the_model_of_a_folder_is_never_taken_for_whole_while_it_is_not(tmp_path: Path, killed: bool) -> None:
    """Its manifest is there only while all files are of one write; until the first is moved, the old ones are whole."""
    for number, disk in enumerate(faults(killed)):
        folder = tmp_path / str(number)
        install(folder, files("old"))
        (folder / "metrics.jsonl").write_text("mine")
        with disk:
            try:
                install(folder, files("new"))
            except (OSError, KilledError):
                assert disk.failed
        if (wrong := damage(folder)) is None:
            assert {(folder / name).read_text().split()[0] for name in ("model", "config.json")} in ({"old"}, {"new"})
        else:
            assert wrong == "it has no manifest.json"
        assert (folder / "metrics.jsonl").read_text() == "mine"
        tidy(folder)
        install(folder, files("again"))
        verify(folder, others=True)
        assert (folder / "state" / "optimizer").read_text() == "again state/optimizer"
    assert number > 12


def test_files_that_the_new_model_lacks_are_deleted(tmp_path: Path) -> None:
    install(tmp_path, files("old"))

    def write(folder: Path) -> None:
        (folder / "model").write_text("new")

    install(tmp_path, write)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["manifest.json", "model"]


def test_the_config_comes_after_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b)))
    install(tmp_path, files("one"))
    assert order == ["manifest.json", "model", "optimizer", "config.json", "manifest.json"]


def test_what_was_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the disk kept something else than it was given."""
    from selfdistill.checkpoints import commit as module

    def spoilt(folder: Path) -> None:
        (folder / "model").write_text("one mOdel")

    monkeypatch.setattr(module, "sync_tree", spoilt)
    with pytest.raises(DamagedError, match="model was changed"):
        commit(tmp_path / "checkpoint-1", files("one"))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commit(tmp_path / "checkpoint-1", interrupted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "act", [lambda folder: commit(folder / "checkpoint-1", again), lambda folder: install(folder, again)]
)
def test_a_folder_that_is_deleted_while_it_is_written_does_not_come_back_as_a_part(
    tmp_path: Path, act: Callable[[Path], None]
) -> None:
    """Although what is written later makes another folder of that name."""
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="deleted or moved while it was written"):
        act(folder)
    assert list(folder.iterdir()) == []


def again(staging: Path) -> None:
    (staging / "model").write_text("one")
    shutil.rmtree(staging.parent)
    write_text(staging / "config.json", "one")


@pytest.mark.parametrize("writes", [commit, install])
def test_a_full_disk_that_safetensors_meets_is_a_full_disk(tmp_path: Path, writes: Any) -> None:
    def write(folder: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match="No space left") as caught:
        writes(tmp_path / "model", write)
    assert caught.value.errno == errno.ENOSPC


def test_a_folder_whose_parent_is_gone_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        commit(tmp_path / "gone" / "checkpoint-1", files("one"))
    assert list(tmp_path.iterdir()) == []


def test_half_written_files_are_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".staging-metrics.jsonl.x7").touch()
    (tmp_path / ".staged").touch()
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".staged"]


# -- deleting ------------------------------------------------------------------------------------------------------


def five(parent: Path) -> Path:
    parent.mkdir(exist_ok=True)
    for number in (2, 4, 6, 8, 10):
        commit(parent / f"checkpoint-{number}", files(str(number)))
    return parent


def names(parent: Path) -> list[str]:
    return [path.name for path in checkpoints_in(parent)]


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    retain(five(tmp_path), 3)
    assert names(tmp_path) == ["checkpoint-6", "checkpoint-8", "checkpoint-10"]
    retain(tmp_path, 1, best=tmp_path / "checkpoint-6")
    assert names(tmp_path) == ["checkpoint-6", "checkpoint-8", "checkpoint-10"]
    retain(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-8", "checkpoint-10"]  # two at least


def test_a_damaged_one_does_not_count(tmp_path: Path) -> None:
    (five(tmp_path) / "checkpoint-8" / "model").write_text("8 mOdel")
    retain(tmp_path, 2)
    assert names(tmp_path) == ["checkpoint-6", "checkpoint-8", "checkpoint-10"]
    retain(tmp_path, 2, verified={"checkpoint-8"})  # which is taken on trust
    assert names(tmp_path) == ["checkpoint-8", "checkpoint-10"]


def test_a_killed_deletion_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    for number, disk in enumerate(faults(killed=True)):
        parent = five(tmp_path / str(number))
        with disk:
            try:
                retain(parent, 3)
            except KilledError:
                assert disk.failed
        tidy(parent)
        for checkpoint in checkpoints_in(parent):
            verify(checkpoint)
        assert names(parent)[-3:] == ["checkpoint-6", "checkpoint-8", "checkpoint-10"]
        assert len(list(parent.iterdir())) == len(names(parent))
    assert len(names(parent)) == 3


def test_what_cannot_be_deleted_is_told(tmp_path: Path) -> None:
    commit(tmp_path / "checkpoint-1", files("one"))
    with Disk(0, killed=False), pytest.raises(OSError, match="No space left"):
        remove(tmp_path / "checkpoint-1")
    verify(tmp_path / "checkpoint-1")
