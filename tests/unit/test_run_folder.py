"""The run folder's files: whole or not at all, and readable after a crash."""

import json
import os
from pathlib import Path

import pytest

from selfdistill import run_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_text_makes_the_folder_and_replaces_the_file(tmp_path):
    path = tmp_path / "a" / "b.txt"
    run_folder.write_text(path, "é\n")
    run_folder.write_text(path, "zwei\n")
    assert path.read_bytes() == b"zwei\n"
    assert names(path.parent) == ["b.txt"]  # no temporary file is left
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, failing):
    path = tmp_path / "b.txt"
    run_folder.write_text(path, "old")

    def no_space(*_) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, failing, no_space)
    with pytest.raises(OSError, match="No space"):
        run_folder.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["b.txt"]


def test_content_is_on_disk_before_the_name_points_at_it(tmp_path, monkeypatch):
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
    assert calls == ["fsync", "replace"]


def test_json_by_hand(tmp_path):
    path = tmp_path / "a.json"
    run_folder.write_json(path, {"name": "é", "folder": Path("x/y")})
    assert path.read_text(encoding="utf-8") == '{\n  "name": "é",\n  "folder": "x/y"\n}\n'


def test_jsonl_written_and_appended(tmp_path):
    path = tmp_path / "a.jsonl"
    run_folder.write_jsonl(path, [{"step": 1}, {"step": 2, "text": "two\nlines"}])
    run_folder.append_jsonl(path, [{"step": 3}])
    run_folder.append_jsonl(path, [])
    assert path.read_text() == '{"step": 1}\n{"step": 2, "text": "two\\nlines"}\n{"step": 3}\n'
    assert [row["step"] for row in run_folder.read_jsonl(path)] == [1, 2, 3]


def test_half_a_last_line_is_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert list(run_folder.read_jsonl(path)) == [{"step": 1}, {"step": 2}]


def test_damage_elsewhere_is_not_hidden(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"ste\n{"step": 2}\n')
    with pytest.raises(json.JSONDecodeError):
        list(run_folder.read_jsonl(path))


def test_forget_after_drops_later_steps_and_the_half_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"note": 1}\n{"step": 1}\n{"step": 2}\n{"step": 2}\n{"step": 3}\n{"st')
    run_folder.forget_after(path, 2)
    run_folder.append_jsonl(path, [{"step": 3}])
    assert path.read_text() == '{"note": 1}\n{"step": 1}\n{"step": 2}\n{"step": 2}\n{"step": 3}\n'
    run_folder.forget_after(path, 0)
    assert path.read_text() == '{"note": 1}\n'


def test_forget_after_makes_no_file(tmp_path):
    run_folder.forget_after(tmp_path / "none.jsonl", 3)
    assert names(tmp_path) == []


def test_versions_name_what_numbers_depend_on():
    import platform

    import torch

    found = run_folder.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert {"transformers", "peft", "accelerate", "datasets"} <= found.keys()
