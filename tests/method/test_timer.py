"""Seconds by phase."""

import contextlib

import pytest
import torch

from selfdistill.method import timer as timer_module
from selfdistill.method.timer import PhaseTimer


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, in seconds."""
    clock = [100.0]
    monkeypatch.setattr(timer_module.time, "perf_counter", lambda: clock[0])
    return clock


def test_seconds_add_up_by_phase_until_they_are_taken(now: list[float]) -> None:
    timer = PhaseTimer(torch.device("cpu"))
    for name, seconds in (("rollout", 3.0), ("backward", 1.0), ("rollout", 0.5)):
        with timer.phase(name):
            now[0] += seconds
        now[0] += 1000.0  # between two phases
    assert timer.drain() == {"rollout": 3.5, "backward": 1.0}
    assert timer.drain() == {}


def test_a_phase_that_fails_took_its_time_too(now: list[float]) -> None:
    timer = PhaseTimer(torch.device("cpu"))
    with contextlib.suppress(KeyError), timer.phase("rollout"):
        now[0] += 2.0
        raise KeyError
    assert timer.drain() == {"rollout": 2.0}


def test_queued_work_on_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    device = torch.device("cuda")
    with PhaseTimer(device).phase("rollout"):
        assert waited == [device]
    assert waited == [device, device]
