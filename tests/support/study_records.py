"""Records of studies with made-up numbers."""

from collections.abc import Mapping
from typing import Any

from selfdistill.records.evaluations import DriftRecord
from selfdistill.records.studies import Checkpoint, Measurements, StageRecord, TaskScore
from selfdistill.stats.scores import wilson_interval


def score(accuracy: float, total: int = 10) -> TaskScore:
    """A task's score."""
    right = round(accuracy * total, 9)
    return TaskScore(accuracy=accuracy, interval=wilson_interval(right, total), num_correct=right, num_total=total)


def drift(kl: float, leak: float = 0.0) -> DriftRecord:
    """A drift of ``kl`` nats for each token, by which the loss on reference answers rose from 2.9, too."""
    return DriftRecord(
        kl_per_token=kl,
        reference_nll=2.9 + kl,
        base_reference_nll=2.9,
        format_leak_rate=leak,
        format_leak_interval=(0.0, 1.0),
        num_prompts=2,
    )


def checkpoint(accuracy: float, kl: float | None = 0.0, **more: Any) -> Checkpoint:
    """A checkpoint of that accuracy and drift; ``more`` are other fields of it."""
    plain: dict[str, Any] = {"arm": "sdft", "learning_rate": 1e-4, "seed": 0, "step": 1, "tokens": 0, "seconds": 0.0}
    plain |= {"skill": score(accuracy), "drift": None if kl is None else drift(kl)}
    return Checkpoint(**plain | more)


def measured(accuracies: Mapping[str, float], kl: float | None = None, **prior: float) -> Measurements:
    """A model's scores by task, its drift, and its scores on prior benchmarks."""
    return Measurements(
        tasks={name: score(accuracy) for name, accuracy in accuracies.items()},
        prior=prior,
        drift=None if kl is None else drift(kl),
    )


def stage(number: int, task: str, after: Measurements) -> StageRecord:
    """The record of a stage of 4 steps, 9 tokens and 5 seconds."""
    return StageRecord(stage=number, task=task, num_rows=9, step=4, tokens=9, seconds=5.0, measured=after)
