"""A tiny model and rows on a disk, and options that train on them."""

from pathlib import Path
from typing import Any, Protocol

import pytest

from selfdistill.settings import flat
from selfdistill.settings.train import TrainOptions
from tests.support.study_home import make_home
from tests.support.tiny import byte_tokenizer
from tests.support.training import student


class Options(Protocol):
    """Builds options of ``train``; ``more`` are settings by name."""

    def __call__(self, **more: Any) -> TrainOptions: ...


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with ``model`` and ``one.jsonl`` to ``three.jsonl`` of 30 rows each."""
    return make_home(tmp_path, student(), byte_tokenizer())


@pytest.fixture
def options(home: Path) -> Options:
    """Options that train on the rows of ``one``."""

    def build(**more: Any) -> TrainOptions:
        own = {
            "output_dir": str(home / "out"),
            "dataset_path": str(home / "one.jsonl"),
            "model_name": str(home / "model"),
            "dtype": "float32",
            "max_completion_length": 20,
        }
        return flat.build(TrainOptions, own | more)

    return build
