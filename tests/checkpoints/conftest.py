"""What is written here is forced to a real disk."""

import os

import pytest

from tests.support.no_waiting import sync_to_disk


@pytest.fixture(autouse=True)
def real_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", sync_to_disk)
