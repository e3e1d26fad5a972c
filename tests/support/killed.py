"""Commands that are killed on the way, and what a run leaves but for times."""

from typing import Any

import pytest

from selfdistill.method.trainer import SDFTTrainer
from tests.support.tiny_home import TinyHome

TIMES = ("wall_seconds", "seconds/", "train_runtime", "train_samples_per_second", "train_steps_per_second")


class StoppedError(BaseException):
    """The process is killed."""


def stopped(home: TinyHome, monkeypatch: pytest.MonkeyPatch, step: int, *argv: str) -> None:
    """Runs a command that is killed at the end of a step, from 1; 0: when training begins."""

    def stop(trainer: SDFTTrainer, *control: Any) -> None:
        if trainer.state.global_step == step:
            raise StoppedError
        real(trainer, *control)

    name = "end_step" if step else "begin_run"
    with monkeypatch.context() as patch:
        real = getattr(SDFTTrainer, name)
        patch.setattr(SDFTTrainer, name, stop)
        with pytest.raises(StoppedError):
            home.run(*argv)


def records(home: TinyHome, folder: str) -> Any:
    """A run's model and records, without times."""
    metrics = [
        {name: value for name, value in line.items() if not name.startswith(TIMES)}
        for line in home.lines(f"{folder}/metrics.jsonl")
    ]
    (weights,) = (home.folder / folder).glob("*.safetensors")
    return weights.read_bytes(), metrics, home.lines(f"{folder}/rollouts.jsonl")
