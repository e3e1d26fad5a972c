"""Seconds by phase."""

import contextlib
from dataclasses import dataclass, field
from typing import Any

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


def test_seconds_so_far_stay_and_another_timer_goes_on_from_them(now: list[float]) -> None:
    timer, later = PhaseTimer(torch.device("cpu")), PhaseTimer(torch.device("cpu"))
    with timer.phase("rollout"):
        now[0] += 3.0
    assert timer.so_far() == timer.so_far() == {"rollout": 3.0}
    later.reset(timer.so_far())
    with later.phase("rollout"):
        now[0] += 0.5
    assert later.drain() == {"rollout": 3.5}
    timer.reset()
    assert timer.drain() == {}


def test_a_phase_that_fails_took_its_time_too(now: list[float]) -> None:
    timer = PhaseTimer(torch.device("cpu"))
    with contextlib.suppress(KeyError), timer.phase("rollout"):
        now[0] += 2.0
        raise KeyError
    assert timer.drain() == {"rollout": 2.0}


@dataclass
class Gpu:
    """A GPU that reaches recorded events later than the program records them."""

    reached: int = 0
    """Events that it has reached."""
    times: list[float] = field(default_factory=list)
    """Milliseconds at which it reaches the events, in the order in which they are recorded."""
    recorded: list["Event"] = field(default_factory=list)
    streams: list[Any] = field(default_factory=list)
    waits: int = 0


class Event:
    """As torch.cuda.Event."""

    gpu: Gpu

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self, stream: Any) -> None:
        self.gpu.recorded.append(self)
        self.gpu.streams.append(stream)

    @property
    def place(self) -> int:
        return self.gpu.recorded.index(self)

    def query(self) -> bool:
        return self.place < self.gpu.reached

    def synchronize(self) -> None:
        self.gpu.waits += 1
        self.gpu.reached = max(self.gpu.reached, self.place + 1)

    def elapsed_time(self, end: "Event") -> float:
        assert self.query()
        assert end.query()
        return self.gpu.times[end.place] - self.gpu.times[self.place]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    monkeypatch.setattr(Event, "gpu", made, raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("the program waits for the GPU"))
    return made


def test_a_gpu_times_its_own_work_and_is_waited_for_only_at_the_end(gpu: Gpu) -> None:
    timer = PhaseTimer(torch.device("cuda:1"))
    for name in ("student", "backward", "student"):
        with timer.phase(name):
            pass
    gpu.times = [100.0, 350.0, 400.0, 1400.0, 1500.0, 1750.0]  # milliseconds; between two phases it does other work
    assert gpu.waits == 0
    assert timer.drain() == {"student": 0.5, "backward": 1.0}
    assert gpu.waits == 1
    assert gpu.streams == ["stream of cuda:1"] * 6
    assert timer.drain() == {}
    assert gpu.waits == 1


def test_phases_that_a_gpu_has_finished_are_not_kept(gpu: Gpu) -> None:
    """Otherwise a run that logs every 10,000 steps would keep a million events."""
    timer = PhaseTimer(torch.device("cuda"))
    gpu.times = [10.0 * place for place in range(200)]
    for _ in range(100):
        with timer.phase("student"):
            gpu.reached = len(gpu.recorded) - 1  # it lags one phase behind
        assert len(timer._queued) <= 2
    assert timer.drain() == {"student": pytest.approx(1.0)}


def test_a_phase_on_a_gpu_that_fails_took_its_time_too(gpu: Gpu) -> None:
    timer = PhaseTimer(torch.device("cuda"))
    with contextlib.suppress(KeyError), timer.phase("rollout"):
        raise KeyError
    gpu.times = [0.0, 2000.0]
    assert timer.drain() == {"rollout": 2.0}


@pytest.mark.parametrize("name", ["mps", "xpu"])
def test_queued_work_on_another_accelerator_is_waited_for(
    name: str, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(device: torch.device) -> None:
        assert device == torch.device(name)
        now[0] += 2.0  # what is queued takes two seconds

    monkeypatch.setattr(torch.accelerator, "synchronize", wait)
    timer = PhaseTimer(torch.device(name))
    with timer.phase("student"):
        now[0] += 0.5
    assert timer.drain() == {"student": 2.5}  # without what was queued before
