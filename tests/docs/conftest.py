"""Commands of documents are run in a folder as a person has it."""

from pathlib import Path

import pytest

from tests.support.tiny_home import TinyHome


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> TinyHome:
    return TinyHome(tmp_path, monkeypatch, capsys)
