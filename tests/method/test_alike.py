"""Micro-batches that are filled up so that processes take the same passes, and what the added passes give."""

from pathlib import Path

import torch

from selfdistill.method.alike import alike
from selfdistill.method.batch import MicroBatch, Sample, micro_batches, weigh
from selfdistill.method.step import Step
from selfdistill.types import PromptPair, Rollout, Target
from tests.support.engines import Scripted, stopped
from tests.support.examples import example
from tests.support.tiny import byte_tokenizer
from tests.support.training import make_config, student

CPU, PAD = torch.device("cpu"), 0


def sample(target: Target, length: int = 3) -> Sample:
    """A sample whose completion and teacher's prompt have ``length`` tokens."""
    pair = PromptPair(example=example(), student_ids=(5, 6), teacher_ids=(7,) * length)
    rollout = Rollout(completion_ids=(8,) * length, finish_reason="stop")
    return Sample(pair=pair, rollout=rollout, target=target, loss_positions=tuple(range(length)))


def batches(*samples: Sample, count: int = 1) -> list[MicroBatch]:
    return micro_batches(weigh(samples, "token_mean"), count, PAD, CPU)


def passes(batch: MicroBatch) -> list[tuple[str, int, int]]:
    return [(part.target, len(part.student), len(part.teacher or ())) for part in batch.parts]


def test_every_process_takes_the_passes_of_all() -> None:
    """One has two long teacher's sequences, which take a pass each; one has anchors too; one has nothing."""
    first = batches(sample("teacher", 1000), sample("teacher", 1000))
    second = batches(sample("teacher"), sample("start"))
    third = batches()
    assert passes(first[0]) == [("teacher", 2, 2)]
    assert passes(second[0]) == [("start", 1, 1), ("teacher", 1, 1)]
    everyone: list[list[object]] = []

    def gathered(own: list[object]) -> list[list[object]]:
        everyone.append(own)
        return everyone

    for own in (first, second, third):
        alike(own, gathered, PAD, CPU)  # type: ignore[arg-type]
    for own in (first, second, third):
        (filled,) = alike(own, lambda _: everyone, PAD, CPU)  # type: ignore[arg-type, return-value]
        assert passes(filled) == [("start", 1, 1), ("teacher", 2, 2)]
        assert len(filled.samples) == len(own[0].samples)
        added = [scored for part in filled.parts for scored in part.student if not len(scored.rows)]
        assert all(scored.input_ids.tolist() == [[PAD]] for scored in added)


def test_micro_batches_are_compared_one_by_one() -> None:
    own = batches(sample("teacher"), count=2)
    others = [[("start", (1, 1, 0))], [("teacher", (1, 1, 0))]]
    filled = alike(own, lambda plans: [plans, others], PAD, CPU)  # type: ignore[list-item]
    assert [passes(batch) for batch in filled] == [[("start", 1, 1), ("teacher", 1, 1)], [("teacher", 1, 1)]]
    assert [len(batch.samples) for batch in filled] == [1, 0]


def test_a_part_without_samples_adds_zeros(tmp_path: Path) -> None:
    """Every weight gets a gradient, which is 0, and nobody is told of a loss."""
    step = Step(student(), byte_tokenizer(), make_config(tmp_path), engine=Scripted(lambda _: stopped(70)))
    told: list[object] = []
    step.on_part = lambda part, loss: told.append(part)
    plan = [[("teacher", (2, 1, 0))]]
    (filled,) = alike(batches(), lambda own: [own, plan], PAD, CPU)  # type: ignore[list-item]
    with step.masters.attached():
        assert float(step.learn(filled)) == 0.0
        gradients = [master.grad for _, _, master in step.masters.items()]
        assert all(gradient is not None and not gradient.any() for gradient in gradients)
    assert told == []
