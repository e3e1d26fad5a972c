"""Where this user's cached files are."""

import sys
from pathlib import Path

import pytest

from selfdistill.models.cache import cache_dir


def test_cache_dir_is_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SELFDISTILL_CACHE", "/some/where")
    assert cache_dir() == Path("/some/where")
    monkeypatch.delenv("SELFDISTILL_CACHE")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path("/home/ada/.cache/selfdistill")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/selfdistill")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == Path("/home/ada/Library/Caches/selfdistill")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache_dir() == Path("/local/selfdistill")
