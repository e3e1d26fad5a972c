"""What a person sees while a model trains."""

import contextlib
import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from selfdistill.training import progress
from selfdistill.training.progress import NO_STEP_LIMIT, TrainingProgress
from tests.support.engines import Scripted
from tests.support.training import make_trainer, script


class Screen:
    """A progress display on a console that keeps what is printed."""

    def __init__(self, *, terminal: bool = False, max_steps: int = 10) -> None:
        self.file = io.StringIO()
        console = Console(file=self.file, width=300, force_terminal=terminal)
        self.state = SimpleNamespace(max_steps=max_steps, global_step=0, is_world_process_zero=True)
        self.shown = TrainingProgress(console)
        self.shown.on_train_begin(None, self.state, None)

    def log(self, step: int, **logs: float) -> None:
        self.state.global_step = step
        self.shown.on_log(None, self.state, None, logs={"loss": 0.5, **logs})

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, in seconds."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    return clock


def test_lines_without_a_terminal_are_those_of_the_first_step_the_last_and_every_half_minute(now: list[float]) -> None:
    screen = Screen()
    for step in range(1, 11):
        now[0] += 12.0
        screen.log(step, tokens_seen=600.0 * step, wall_seconds=12.0 * step)
    assert screen.lines == [
        "step 1/10  loss 0.500  50 tokens/s  1.8 min left",  # 9 steps of 12 s
        "step 4/10  loss 0.500  50 tokens/s  1.2 min left",
        "step 7/10  loss 0.500  50 tokens/s  0.6 min left",
        "step 10/10  loss 0.500  50 tokens/s  0.0 min left",
    ]


def test_a_run_without_an_end_has_no_time_left(now: list[float]) -> None:
    screen = Screen(max_steps=NO_STEP_LIMIT)
    screen.log(1, tokens_seen=100.0, wall_seconds=10.0)
    assert screen.lines == ["step 1  loss 0.500  10 tokens/s"]


def test_tokens_a_second_are_those_since_the_last_line(now: list[float]) -> None:
    screen = Screen(max_steps=2)
    screen.log(1, tokens_seen=100.0, wall_seconds=10.0)
    screen.log(2, tokens_seen=700.0, wall_seconds=20.0)
    assert ["10 tokens/s" in screen.lines[0], "60 tokens/s" in screen.lines[1]] == [True, True]


def test_a_terminal_has_a_bar_that_can_be_put_aside() -> None:
    screen = Screen(terminal=True)
    screen.log(1, tokens_seen=100.0, wall_seconds=10.0)
    bar: Any = screen.shown._bar
    with contextlib.suppress(KeyError), screen.shown.paused():
        assert not bar.live.is_started
        raise KeyError
    assert bar.live.is_started
    screen.shown.on_train_end(None, None, None)
    screen.shown.close()
    assert not bar.live.is_started
    with screen.shown.paused():
        pass


# -- nothing is learned ------------------------------------------------------------------------------------


def test_a_step_without_a_loss_token_is_told_once_a_run() -> None:
    screen = Screen()
    for step, tokens in ((1, 3.0), (2, 0.0), (3, 0.0)):
        screen.log(step, loss_tokens=tokens)
    (told,) = [line for line in screen.lines if "Warning" in line]
    assert told.startswith("Warning: at step 2 no token carried loss, so nothing was learned")
    screen.shown.on_train_begin(None, screen.state, None)
    screen.log(1, loss_tokens=0.0)
    assert len([line for line in screen.lines if "Warning" in line]) == 2


@pytest.mark.parametrize(
    ("settings", "finish", "told"),
    [
        ({"num_loss_tokens_to_skip": 100}, "stop", True),
        ({"mask_truncated_completions": True}, "length", True),
        ({"mask_truncated_completions": True}, "stop", False),
        ({}, "length", False),
    ],
    ids=str,
)
def test_a_run_that_learns_nothing(tmp_path: Any, settings: dict[str, Any], finish: str, told: bool) -> None:
    file = io.StringIO()
    shown = TrainingProgress(Console(file=file, width=300))
    engine = Scripted(script(finish=finish))
    make_trainer(tmp_path, engine=engine, options={"callbacks": [shown]}, **settings).train()
    assert ("no token carried loss" in file.getvalue()) == told
