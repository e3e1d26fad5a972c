"""A home for studies."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.support.study_home import make_home


@pytest.fixture
def home(tmp_path: Path, tiny_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a tiny model and rows; see ``make_home``."""
    return make_home(tmp_path, tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512), tokenizer)
