"""Fixtures of all tests."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.support.chat_server import ChatServer
from tests.support.no_waiting import is_open, leave_libraries_out, sync_to_disk
from tests.support.tiny import byte_tokenizer, random_model


def pytest_configure() -> None:
    os.fsync = is_open


def pytest_collection_finish() -> None:
    leave_libraries_out()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # Hypothesis asks for referrers at the end
    os.fsync = sync_to_disk


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., PreTrainedModel]:
    """Builds a model: ``tiny_model("gemma2", final_logit_softcapping=3.0)``; same arguments, same weights."""
    return random_model


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte; see ``byte_tokenizer``."""
    return byte_tokenizer()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ChatServer]]:
    """Starts a ``ChatServer`` with the given replies."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers: list[ChatServer] = []

    def start(*replies: Any) -> ChatServer:
        servers.append(ChatServer(*replies))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def real_data() -> Path:
    """The folder of real data: SELFDISTILL_DATA, or a ``shared/data`` beside the checkout. Where
    SELFDISTILL_NEEDS_DATA is set, a test without it fails instead of being skipped."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SELFDISTILL_DATA") or beside)
    if not folder.is_dir():
        reason = "no real data: name their folder with SELFDISTILL_DATA"
        if os.environ.get("SELFDISTILL_NEEDS_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
