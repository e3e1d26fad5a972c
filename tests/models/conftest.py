"""A small model on disk, and a machine without an accelerator."""

from pathlib import Path

import pytest
import torch

from selfdistill.models import device
from tests.support.tiny_chat import tiny_model, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model with its tokenizer."""
    path = tmp_path / "base"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expected devices and dtypes must not depend on the machine."""
    monkeypatch.setattr(device, "default_device", lambda: torch.device("cpu"))
