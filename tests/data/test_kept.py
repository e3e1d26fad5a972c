"""Rows that are too many for memory, and that nobody notices where they are."""

import copy
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfdistill.data import kept
from selfdistill.data.kept import Kept, keep
from tests.support.mistakes import mistake


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MANY", 4)


ITEMS = [("a" * n, n) for n in range(9)]


def test_few_are_a_list_and_many_are_on_the_disk() -> None:
    assert keep(iter(ITEMS[:4])) == ITEMS[:4]
    assert isinstance(keep(iter(ITEMS[:4])), list)
    assert isinstance(keep(iter(ITEMS[:5])), Kept)
    assert keep(iter([])) == []
    assert keep(ITEMS) is ITEMS  # it is in memory in any case


def test_they_are_a_sequence_in_the_order_given() -> None:
    many: Any = keep(iter(ITEMS))
    assert len(many) == 9
    assert list(many) == ITEMS
    assert list(reversed(many)) == ITEMS[::-1]
    assert (many[0], many[8], many[-1]) == (ITEMS[0], ITEMS[8], ITEMS[8])
    assert many[:] is many
    assert many[:None] is many
    assert many[:20] is many
    assert many[2:4] == ITEMS[2:4]
    assert list(many[::2]) == ITEMS[::2]
    assert ITEMS[3] in many
    assert many == ITEMS
    assert many != ITEMS[:8]
    assert many != [*ITEMS[:8], ITEMS[0]]
    with pytest.raises(IndexError):
        many[9]
    assert keep(many) is many
    assert list(copy.deepcopy(many)) == ITEMS


def test_they_are_read_one_at_a_time() -> None:
    """No more than the first few are held while the others are written."""
    alive: list[int] = []

    class Item:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    most = 0

    def items() -> Iterator[Any]:
        nonlocal most
        for _ in range(100):
            most = max(most, len(alive))
            yield Item()

    globals()["Item"] = Item
    Item.__qualname__ = "Item"
    many = keep(items())
    assert len(many) == 100
    assert most <= 8
    assert not alive


def test_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    many = keep(iter(ITEMS))
    assert list(tmp_path.iterdir()) == []
    assert list(many) == ITEMS


def test_a_full_disk_is_named_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    said = mistake(keep, iter(ITEMS))
    assert said.startswith(f"{tmp_path}: 0 rows are written, no more (No space left on device).")
    assert said.endswith("name another folder in TMPDIR.")
