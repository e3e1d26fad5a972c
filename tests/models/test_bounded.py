"""A template that goes on, or makes too much, ends in an error; the process that ran it is gone."""

import gc
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from selfdistill.errors import UserError
from selfdistill.models import bounded
from selfdistill.models.bounded import Bounded, BoundedError
from tests.support.clock import within

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
    with within(8), pytest.raises(BoundedError, match="longer than 1 seconds"):
        running(name)
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
    with pytest.raises(BoundedError, match="too much memory, or was ended"):
        made()
    assert made() == "x"


def test_a_call_that_waits_for_the_processor_is_not_ended() -> None:
    assert Bounded(lambda: time.sleep(1) or "x", seconds=0.5)() == "x"


def test_a_child_that_is_stuck_is_replaced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "PATIENCE", 1)

    def wait(times: int) -> str:
        """Hangs in the first ``times`` children."""
        with open(tmp_path / str(times), "a+", encoding="utf-8") as file:
            file.write("x")
        if (tmp_path / str(times)).stat().st_size <= times:
            time.sleep(60)
        return "said"

    waiting = Bounded(wait, seconds=0.5)
    assert waiting(1) == "said"
    with pytest.raises(BoundedError, match=r"longer than 0.5 seconds"):
        waiting(2)


def test_the_childs_garbage_collector_leaves_the_parents_objects() -> None:
    class Waits:
        """In a cycle that nobody holds, with an end that waits for a thread."""

        def __init__(self, owner: int) -> None:
            self.itself, self.owner = self, owner

        def __del__(self) -> None:
            if os.getpid() != self.owner:
                time.sleep(60)

    gc.disable()
    try:
        Waits(os.getpid())
        assert Bounded(lambda: str(gc.collect() >= 0), seconds=0.5)() == "True"
    finally:
        gc.enable()


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
