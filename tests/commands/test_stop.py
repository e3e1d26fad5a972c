"""``train`` that is told to stop."""

import os
import signal
from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from selfdistill.method.step import Step
from tests.support.tiny_home import TinyHome, train

LINE = ("--max_steps=4", "--learning_rate=1e-2", "--save_steps=3")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def told(monkeypatch: pytest.MonkeyPatch, number: int, steps: Collection[int]) -> Generator[None]:
    """Context in which the process gets a signal as it samples for these steps, from 1; two for a step given twice."""
    rollout = Step.rollout

    def sample(step: Step, pairs: Any, at: int) -> Any:
        for _ in range(list(steps).count(at + 1)):
            os.kill(os.getpid(), number)
        return rollout(step, pairs, at)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "rollout", sample)
        yield


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("step", [1, 4])
def test_it_finishes_the_step_saves_and_goes_on_as_if_nothing_had_been(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, step: int
) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    assert home.run(*train(*LINE, output="whole")).code == 0
    with told(monkeypatch, number, [step]):
        said = home.run(*train(*LINE, output="cut"))
    assert said.code == 128 + number
    assert f"{number.name}: the step is finished and saved. Once more ends the run at once." in said.out
    assert said.err == (
        f"selfdistill: Stopped by {number.name} after step {step}. checkpoint-{step} is saved; the same command goes "
        "on from it.\n"
    )
    assert [signal.getsignal(one) for one in SIGNALS] == before
    assert not (home.folder / "cut" / "model.safetensors").exists()
    assert [line["step"] for line in home.lines("cut/metrics.jsonl")] == list(range(1, step + 1))
    assert home.run(*train(*LINE, output="cut")).code == 0
    whole, cut = (home.folder / folder / "model.safetensors" for folder in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    assert home.lines("cut/rollouts.jsonl") == home.lines("whole/rollouts.jsonl")
    losses = [[line.get("loss") for line in home.lines(f"{name}/metrics.jsonl")] for name in ("cut", "whole")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_the_second_time_it_ends_at_once(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, said: str
) -> None:
    with told(monkeypatch, number, [2, 2]):
        found = home.run(*train(*LINE, output="cut"))
    assert (found.code, found.err) == (128 + number, f"selfdistill: {said}\n")
    assert not list((home.folder / "cut").glob("checkpoint-*"))
    assert home.run(*train(*LINE, output="cut")).code == 0


def test_a_checkpoint_that_holds_only_the_model_is_said_to(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    with told(monkeypatch, signal.SIGTERM, [1]):
        found = home.run(*train(*LINE, "--set=save_only_model=true", output="cut"))
    assert found.code == 143
    assert "no run goes on from it, since it holds only the model (save_only_model)" in found.err
