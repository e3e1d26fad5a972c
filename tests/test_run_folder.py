"""The run folder's files: whole or not at all, and readable after a crash; and which folders may be replaced."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from selfdistill import run_folder
from selfdistill.run_folder import check_output_dir, check_replaceable
from selfdistill.stats.scores import Interval
from selfdistill.stats.seeds import OverSeeds
from tests.support.mistakes import mistake


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_text_makes_the_folder_and_replaces_the_file(tmp_path: Path):
    path = tmp_path / "a" / "b.txt"
    run_folder.write_text(path, "é\n")
    run_folder.write_text(path, "zwei\n")
    assert path.read_bytes() == b"zwei\n"
    assert names(path.parent) == ["b.txt"]  # no temporary file is left
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str):
    path = tmp_path / "b.txt"
    run_folder.write_text(path, "old")

    def no_space(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, failing, no_space)
    with pytest.raises(OSError, match="No space"):
        run_folder.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["b.txt"]


def test_content_is_on_disk_before_the_name_points_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_replace(source: str, target: Path) -> None:
        assert Path(source).read_text() == "text"
        assert Path(source).parent == target.parent  # a rename across file systems would be a copy
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", recorded_replace)
    run_folder.write_text(tmp_path / "b.txt", "text")
    assert calls == ["fsync", "replace", "fsync"]  # the file, then the folder that names it


def test_json_by_hand(tmp_path: Path):
    path = tmp_path / "a.json"
    run_folder.write_json(path, {"name": "é", "folder": Path("x/y")})
    assert path.read_text(encoding="utf-8") == '{\n  "name": "é",\n  "folder": "x/y"\n}\n'


def test_what_json_does_not_know_is_null_at_any_depth(tmp_path: Path):
    value = {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": 1.5}
    as_read = {"a": None, "b": [None, {"c": None}], "d": 1.5}
    run_folder.write_json(tmp_path / "a.json", value)
    run_folder.write_jsonl(tmp_path / "a.jsonl", [value])
    run_folder.append_jsonl(tmp_path / "a.jsonl", [value])
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == as_read
    assert list(run_folder.read_jsonl(tmp_path / "a.jsonl")) == [as_read, as_read]


def test_dataclasses_are_objects_and_tuples_lists_at_any_depth(tmp_path: Path):
    inner = OverSeeds(mean=0.5, deviation=math.nan, sign_consistency=1.0)
    run_folder.write_json(tmp_path / "a.json", {"seeds": [inner], "interval": Interval(0.25, 0.75), 3: OverSeeds})
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "seeds": [{"mean": 0.5, "deviation": None, "sign_consistency": 1.0}],
        "interval": [0.25, 0.75],
        "3": str(OverSeeds),
    }


def test_jsonl_written_and_appended(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    run_folder.write_jsonl(path, [{"step": 1}, {"step": 2, "text": "two\nlines"}])
    run_folder.append_jsonl(path, [{"step": 3}])
    run_folder.append_jsonl(path, [])
    assert path.read_text() == '{"step": 1}\n{"step": 2, "text": "two\\nlines"}\n{"step": 3}\n'
    assert [row["step"] for row in run_folder.read_jsonl(path)] == [1, 2, 3]


def test_half_a_last_line_is_passed_over(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert list(run_folder.read_jsonl(path)) == [{"step": 1}, {"step": 2}]


def test_damage_elsewhere_is_not_hidden(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"ste\n{"step": 2}\n')
    with pytest.raises(json.JSONDecodeError):
        list(run_folder.read_jsonl(path))


def test_forget_after_drops_later_steps_and_the_half_line(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"note": 1}\n{"step": 1}\n{"step": 2}\n{"step": 2}\n{"step": 3}\n{"st')
    run_folder.forget_after(path, 2)
    run_folder.append_jsonl(path, [{"step": 3}])
    assert path.read_text() == '{"note": 1}\n{"step": 1}\n{"step": 2}\n{"step": 2}\n{"step": 3}\n'
    run_folder.forget_after(path, 0)
    assert path.read_text() == '{"note": 1}\n'


def test_broken_lines_go_and_what_is_left_is_counted(tmp_path: Path):
    """Zeros, as a power cut leaves them, and other lines that are no record."""
    path = tmp_path / "a.jsonl"
    good = [b'{"step": 1, "text": "a\xe2\x80\xa8b"}\n', b'{"step": 2}\n']
    broken = [bytes(40) + b"\n", b'{"step": 2, "text": "\xff"}\n', b"[1]\n", b'{"step": "x"}\n', b'{"step"']
    path.write_bytes(b"".join([good[0], *broken[:-1], good[1], broken[-1]]))
    assert run_folder.forget_after(path, 2) == 2
    assert path.read_bytes() == b"".join(good)


def test_folders_are_synced_that_are_made_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda one: (synced.append(os.readlink(f"/proc/self/fd/{one}")), fsync(one)))
    run_folder.make_folder(tmp_path / "a" / "b")
    assert synced == [str(tmp_path / "a"), str(tmp_path)]


def test_forget_after_makes_no_file(tmp_path: Path):
    run_folder.forget_after(tmp_path / "none.jsonl", 3)
    assert names(tmp_path) == []


def test_evaluated_data_sets_have_both_files_and_drift_is_none(tmp_path: Path):
    for name in ("b.json", "b.samples.jsonl", "a.json", "a.samples.jsonl", "half.samples.jsonl", "study.json"):
        (tmp_path / name).touch()
    for name in (run_folder.results_file("drift"), run_folder.samples_file("drift")):
        (tmp_path / name).touch()
    assert run_folder.evaluated_datasets(tmp_path) == ["a", "b"]
    assert run_folder.evaluated_datasets(tmp_path / "nowhere") == []


def test_versions_name_what_numbers_depend_on():
    import platform

    import torch

    found = run_folder.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert {"transformers", "peft", "accelerate", "datasets"} <= found.keys()


# -- whether a folder may be used ---------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def run(home: Path) -> Path:
    """A folder that holds a run of ours."""
    run_folder.write_json(home / "work" / "run" / run_folder.RUN_CONFIG, {})
    return home / "work" / "run"


@pytest.mark.parametrize(
    "record",
    [
        *("run_config.json", "metrics.jsonl", "study.json", "ledger.json", "compare.json", "continual.json"),
        *("eval-before/toy.json", "eval_results.json", "toy.samples.jsonl"),
    ],
)
def test_a_folder_with_a_record_of_ours_may_be_replaced(tmp_path: Path, record: str):
    folder = tmp_path / "used"
    run_folder.write_text(folder / record, "")
    check_replaceable(folder)
    check_output_dir(str(folder), overwrite=True)
    assert (folder / record).is_file()  # a check deletes nothing
    assert "is not empty" in mistake(run_folder.check_unused, str(folder), overwrite=False)


@pytest.mark.parametrize(
    "files", [["my_notes.txt"], ["config.json", "model.safetensors"], ["eval.jsonl", "x/study.json"]]
)
def test_somebody_elses_folder_may_not(tmp_path: Path, files: list[str]):
    for name in files:
        run_folder.write_text(tmp_path / "used" / name, "")
    said = mistake(check_replaceable, tmp_path / "used")
    assert f"{tmp_path / 'used'} holds no record of ours" in said
    assert said == mistake(check_output_dir, str(tmp_path / "used"), overwrite=True)
    assert all((tmp_path / "used" / name).is_file() for name in files)


def test_a_folder_that_is_new_or_empty_may_always_be_used(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none"):
        check_replaceable(tmp_path / name, [str(tmp_path / name)])
        for flags in ({}, {"overwrite": True}):
            check_output_dir(str(tmp_path / name), **flags)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]  # a check makes nothing


@pytest.mark.parametrize("place", [".", "..", "../work", "run/..", "{root}/home/work"])
def test_the_working_directory_is_never_emptied(run: Path, monkeypatch: pytest.MonkeyPatch, place: str):
    (run.parent / "run_config.json").touch()  # even where it holds a run of ours
    (run.parent.parent / "run_config.json").touch()
    monkeypatch.chdir(run.parent)
    folder = Path(place.format(root=run.parents[2]))
    assert "--overwrite would delete the working directory" in mistake(check_replaceable, folder)


def test_nor_is_the_home_folder_or_one_above_it(home: Path, run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir("/")
    for folder in (home, home.parent):
        (folder / "run_config.json").touch()
        assert "--overwrite would delete your home folder" in mistake(check_replaceable, folder)
    check_replaceable(run)


def test_what_the_command_reads_may_not_lie_in_the_folder(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(run.parent)
    for name in ("rows.jsonl", "scorer.py", "eval.jsonl"):
        (run / name).touch()
    rows = str(run / "rows.jsonl")
    for inputs in ([rows], [None, "run/rows.jsonl"], ["owner/name", str(run)], ["run"]):
        found = mistake(check_replaceable, run, inputs)
        assert f"--overwrite would delete {inputs[-1]}, which lies in {run}" in found
    assert "delete run/scorer.py" in mistake(check_replaceable, run, ["run/scorer.py:score"])
    assert "delete run/eval.jsonl" in mistake(check_replaceable, run, ["elsewhere.jsonl:run/eval.jsonl"])


def test_inputs_elsewhere_and_names_that_are_no_paths_do_no_harm(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(run.parent)
    (run.parent / "rows.jsonl").touch()
    (run.parent / "run-2").mkdir()  # its name begins with that of the folder
    check_replaceable(run, [None, "", "smollm2-135m", "owner/name", "rows.jsonl", "run-2", str(run.parent)])
    assert {"rows.jsonl", "run-2", run.name} <= {path.name for path in run.parent.iterdir()}


def test_a_link_is_looked_through(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(run.parent)
    (tmp_path / "link").symlink_to(run.parent)
    assert "the working directory" in mistake(check_replaceable, tmp_path / "link")
    (run / "rows.jsonl").touch()
    assert "would delete" in mistake(check_replaceable, run, [str(tmp_path / "link" / "run" / "rows.jsonl")])


def test_a_run_goes_on_in_its_own_folder(run: Path, tmp_path: Path):
    for flags in ({}, {"resume": True}, {"allow_changes": True}, {"overwrite": True}):
        check_output_dir(str(run), **flags)
    assert "exclude each other" in mistake(check_output_dir, str(run), resume=True, overwrite=True)
    for overwrite in (False, True):
        said = mistake(check_output_dir, str(run / "run_config.json"), overwrite=overwrite)
        assert "is a file" in said
    assert "is not empty" in mistake(run_folder.check_unused, str(run), overwrite=False)
    run_folder.check_unused(str(run), overwrite=True)


def test_a_folder_that_holds_no_run_is_not_trained_in(tmp_path: Path):
    (tmp_path / "thesis.txt").touch()
    for resume in (False, True):
        assert "is not empty and holds no run" in mistake(check_output_dir, str(tmp_path), resume=resume)


@pytest.mark.parametrize(
    "leftover",
    [".lock", ".leases", ".work", ".staging-checkpoint-2", ".staging-run_config.json.x7", ".trash-checkpoint-2"],
)
def test_what_a_killed_run_leaves_before_its_first_record_does_no_harm(tmp_path: Path, leftover: str):
    (tmp_path / leftover).mkdir()
    check_output_dir(str(tmp_path))
    check_output_dir(str(tmp_path), overwrite=True)
    run_folder.check_unused(str(tmp_path), overwrite=False)
    for folder in (tmp_path, tmp_path / "none"):
        said = mistake(check_output_dir, str(folder), resume=True)
        assert said.endswith("holds no run to go on with. Leave --resume out to start.")


def test_the_last_row_of_a_file(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    assert run_folder.last_row(path) == {}
    path.write_text("")
    assert run_folder.last_row(path) == {}
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert run_folder.last_row(path) == {"step": 2}
    path.write_bytes(b'{"step": 1}\n' + bytes(9) + b"\n")
    assert run_folder.last_row(path) == {}
