"""Two runs, made once: one of all weights and one of an adapter, both with checkpoints."""

from pathlib import Path
from typing import Any

import pytest

from selfdistill.cli import main
from tests.support.tiny_home import TinyHome, train


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model ``M`` and the runs ``full`` and ``lora``, of two steps each."""
    folder = tmp_path_factory.mktemp("runs")
    nothing_is_read: Any = None
    with pytest.MonkeyPatch.context() as patch:
        TinyHome(folder, patch, nothing_is_read)
        assert main(train("--save_steps=1", output="full")) == 0
        assert main(train("--save_steps=1", "--lora_r=4", "--learning_rate=1e-2", output="lora")) == 0
    return folder


@pytest.fixture
def home(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> TinyHome:
    """A folder as a person has it, with links to the runs."""
    made = TinyHome(tmp_path, monkeypatch, capsys)
    for name in ("full", "lora"):
        (tmp_path / name).symlink_to(runs / name)
    return made
