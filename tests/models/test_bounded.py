"""A template that goes on, or makes too much, ends in an error; the process that ran it is gone."""

import os
import time
from typing import Any

import psutil
import pytest

from selfdistill.errors import UserError
from selfdistill.models import bounded
from selfdistill.models.bounded import Bounded, BoundedError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def endless() -> str:
    while True:
        pass


def test_text_passes_both_ways() -> None:
    join = Bounded(lambda *words, end: "".join(words) + end)
    assert join("ä\ud800", "\n" * 100_000, end="€") == "ä\ud800" + "\n" * 100_000 + "€"
    assert join("x" * 1_000_000, end="") == "x" * 1_000_000


def test_errors_pass() -> None:
    def fail(kind: str) -> str:
        raise UserError("yours") if kind == "user" else RecursionError("deep")

    failing = Bounded(fail)
    with pytest.raises(UserError, match="yours"):
        failing("user")
    with pytest.raises(BoundedError, match="RecursionError: deep"):
        failing("other")
    assert len(psutil.Process().children()) >= 1  # it lives on, for the next call


@pytest.mark.parametrize("name", ["loop", "power"])
def test_what_goes_on_is_killed_and_the_next_call_works(name: str) -> None:
    def run(name: str) -> str:
        return endless() if name == "loop" else str((9**9) ** (9**7)) if name == "power" else name

    running = Bounded(run, seconds=1)
    started = time.monotonic()
    with pytest.raises(BoundedError, match="longer than 1 seconds"):
        running(name)
    assert time.monotonic() - started < 8
    assert running("again") == "again"


@pytest.mark.parametrize("count", [bounded.MOST_BYTES + 1, 1 << 40])
def test_too_much_is_refused(count: int) -> None:
    with pytest.raises(BoundedError, match=r"makes more than|MemoryError|too much"):
        Bounded(lambda count: "x" * count)(count)


def test_what_the_function_changes_stays_in_the_child() -> None:
    seen: list[Any] = []

    def note(row: dict[str, str]) -> str:
        seen.append(row)
        row["a"] = "changed"
        return str(len(seen))

    noted, row = Bounded(note), {"a": "mine"}
    assert [noted(row), noted(row)] == ["1", "2"]
    assert (seen, row) == ([], {"a": "mine"})


def test_the_child_ends_with_the_object() -> None:
    before = set(psutil.Process().children())
    made = Bounded(lambda: "x")
    made()
    (child,) = set(psutil.Process().children()) - before
    del made
    assert not child.is_running()


def test_a_child_that_is_killed_is_an_error_and_begins_again() -> None:
    before = set(psutil.Process().children())
    made = Bounded(lambda: "x")
    made()
    (child,) = set(psutil.Process().children()) - before
    child.kill()
    child.wait()
    with pytest.raises(BoundedError, match="too much time or memory"):
        made()
    assert made() == "x"


def test_a_child_without_calls_ends_and_the_next_call_begins_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "IDLE", 0.2)
    before = set(psutil.Process().children())
    made = Bounded(lambda: "x")
    made()
    (child,) = set(psutil.Process().children()) - before
    for _ in range(200):
        if child.status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    assert child.status() == psutil.STATUS_ZOMBIE
    assert made() == "x"
    assert not child.is_running()
