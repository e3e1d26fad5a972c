"""What is noticed of a ledger that was changed by another hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill.commands import rollback
from selfdistill.errors import DamagedFilesError
from selfdistill.settings.ledger import RollbackOptions
from tests.support.ledger_home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Skills a and b, held by versions 1 and 2."""
    made = Home(tmp_path, monkeypatch)
    assert made.teach("a", {"a": 20})[0] == 0
    assert made.teach("b", {"a": 20, "b": 20})[0] == 0
    return made


def edited(path: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def answers(path: Path) -> None:
    path.write_text(path.read_text().replace("answer", "anzwer"))


def manifest(path: Path) -> None:
    """An answer is changed, and the manifest made to fit."""
    edited(path, lambda data: data["files"]["gate.json"].update(bytes=1))


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("versions/0001/eval/a.samples.jsonl", answers, "0001: eval/a.samples.jsonl was changed"),
        ("versions/0001/eval/a.json", Path.unlink, "0001: eval/a.json is missing"),
        ("versions/0002/model.safetensors", lambda path: path.write_bytes(b"x"), "0002: model.safetensors has 1 bytes"),
        ("versions/0001/model.safetensors", lambda path: path.write_bytes(b"x"), "0001: model.safetensors has 1 bytes"),
        ("versions/0001/manifest.json", manifest, "0001: its manifest.json was changed"),
        ("versions/0001/manifest.json", Path.unlink, "0001: it has no manifest.json"),
        (
            "ledger.json",
            lambda path: edited(path, lambda data: data["versions"][0].update(max_forgetting=0.9)),
            "0001: ledger.json says something else of it",
        ),
        (
            "ledger.json",
            lambda path: edited(path, lambda data: data["versions"][1]["skill"].update(max_new_tokens=1)),
            "0002: ledger.json says something else of it",
        ),
    ],
)
def test_a_change_is_named_and_nothing_is_learned(
    home: Home, file: str, change: Callable[[Path], Any], said: str
) -> None:
    change(home.memory / file)
    before = home.files()
    with pytest.raises(DamagedFilesError) as caught:
        home.teach("c", {"a": 20, "b": 20, "c": 20})
    assert said in str(caught.value)
    assert len(str(caught.value).split()) <= 40
    assert caught.value.exit_code == 6
    assert home.files() == before


def test_weights_of_the_current_version_are_read_those_of_others_compared_by_size(home: Home) -> None:
    """Here they are changed in a way that leaves the size as it was."""
    (home.memory / "versions" / "0001" / "model.safetensors").write_bytes(b"xxxx")
    assert home.teach("c", {"a": 20, "b": 20, "c": 20})[0] == 0
    (home.memory / "versions" / "0003" / "model.safetensors").write_bytes(b"xxxx")
    with pytest.raises(DamagedFilesError, match=r"0003: model\.safetensors was changed"):
        home.teach("d", {"a": 20, "b": 20, "c": 20, "d": 20})


def test_no_way_back_to_a_version_that_was_changed(home: Home) -> None:
    (home.memory / "versions" / "0001" / "model.safetensors").write_bytes(b"xxxx")
    before = home.files()
    with pytest.raises(DamagedFilesError, match=r"0001: model\.safetensors was changed"):
        rollback.run(RollbackOptions(ledger=str(home.memory), to=1), Console(quiet=True))
    assert home.files() == before


def test_a_way_back_from_a_version_that_was_changed(home: Home) -> None:
    (home.memory / "versions" / "0002" / "model.safetensors").write_bytes(b"xxxx")
    rollback.run(RollbackOptions(ledger=str(home.memory), to=1), Console(quiet=True))
    assert home.state()["current"] == 1
