"""What is done when memory is full: the same in smaller pieces."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selfdistill import SDFTTrainer
from selfdistill.method.batch import halved
from selfdistill.method.rollout import engine as engines
from selfdistill.method.rollout.engine import Sampling, in_batches
from selfdistill.method.step import Step
from selfdistill.types import Rollout
from tests.support.mistakes import mistake
from tests.support.training import lines, make_trainer, student, weights

RUN: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_steps": 3,
    "learning_rate": 1e-2,
    "optim": "adamw_torch",
    "logging_steps": 1,
    "rollouts_logged_per_step": None,
}
TIMES = ("wall_seconds", "seconds/", "train_", "flos")


def full() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def small_device(patch: pytest.MonkeyPatch, most: int, at: Callable[[], bool] = lambda: True) -> None:
    """A backward pass over more than ``most`` samples breaks off: some gradients are there already."""
    loss = Step.loss

    def limited(step: Step, part: Any) -> Any:
        found = loss(step, part)
        if len(part.samples) > most and at():
            found.total.backward(retain_graph=True)
            raise full()
        return found

    patch.setattr(Step, "loss", limited)


def trained(folder: Path, **settings: Any) -> SDFTTrainer:
    trainer = make_trainer(folder, **RUN | settings)
    warnings = list[str]()
    trainer.checkpoints.on_warning = warnings.append
    trainer.train()
    trainer.warnings = warnings  # type: ignore[attr-defined]
    return trainer


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if not name.startswith(TIMES)}
        for line in lines(folder, "metrics.jsonl")
    ]


@pytest.mark.parametrize(
    ("settings", "dtype", "first"),
    [
        ({}, torch.float32, 0),
        ({}, torch.bfloat16, 3),
        ({"method": "sft", "max_completion_length": 12}, torch.float32, 3),
        ({"target": "mix", "target_weight": 0.5}, torch.float32, 3),
    ],
)
def test_a_step_goes_on_in_smaller_pieces_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], dtype: torch.dtype, first: int
) -> None:
    """From the first micro-batch on, and from the fourth, the last one of its step, on."""
    whole = trained(tmp_path / "whole", model=student(dtype), **settings)
    calls = iter(range(10**6))
    small_device(monkeypatch, 1, lambda: next(calls) >= first)
    cut = trained(tmp_path / "cut", model=student(dtype), **settings)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], weight, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(metrics(tmp_path / "cut"), metrics(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance * 10, abs=tolerance)
    assert cut.warnings == [  # type: ignore[attr-defined]
        f"Memory was full: micro-batches are computed in {pieces} pieces, with the same result. "
        f"--per_device_train_batch_size {4 // pieces} --gradient_accumulation_steps {2 * pieces} does so from the "
        "start."
        for pieces in (2, 4)
    ]
    logged = [lines(tmp_path / name, "rollouts.jsonl") for name in ("cut", "whole")]
    assert [(line["step"], line["id"]) for line in logged[0]] == [(line["step"], line["id"]) for line in logged[1]]


def test_the_teacher_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole")
    score, sizes = Step._score, list[int]()

    def limited(step: Step, target: Any, parts: Any) -> Any:
        sizes.append(max(len(part.samples) for part in parts))
        if sizes[-1] > 2:
            raise full()
        return score(step, target, parts)

    monkeypatch.setattr(Step, "_score", limited)
    cut = trained(tmp_path / "cut")
    assert sizes == [4, 2, 2, 2]  # later steps begin with the smaller ones
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], weight)


def test_nothing_is_left_to_divide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_device(monkeypatch, 0)
    trainer = make_trainer(tmp_path, **RUN)
    trainer.checkpoints.on_warning = lambda text: None
    assert mistake(trainer.train).startswith("Memory is full even with one row at a time. Take an adapter")


def test_other_errors_are_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(step: Step, part: Any) -> Any:
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(Step, "loss", wrong)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        make_trainer(tmp_path, **RUN).train()


def test_halves_hold_the_same_tokens_with_the_same_weights(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, **RUN)
    step = trainer.step
    (whole,) = step.micro_batches(step.rollout(list(trainer.train_dataset)[:5], 0), 1)  # type: ignore[arg-type]
    pieces = halved(whole, 257, torch.device("cpu"))
    assert [len(part.samples) for part in pieces.parts] == [2, 3]
    assert [len(part.samples) for part in halved(pieces, 257, torch.device("cpu")).parts] == [1, 1, 1, 2]
    assert pieces.samples == whole.samples
    (part,) = whole.parts

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(piece, name) for piece in pieces.parts])

    for name in ("token_ids", "weights", "teacher_hidden"):
        assert torch.equal(joined(name), getattr(part, name)), name
    for piece in pieces.parts:
        assert piece.teacher_head is part.teacher_head


def test_completions_are_sampled_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are done are not sampled again."""
    sizes, done, shrunk = list[int](), list[int](), list[int]()

    def complete(prompts: Any, sampling: Sampling) -> list[Rollout]:
        sizes.append(len(prompts))
        if len(prompts) > 3 and len(sizes) > 1:
            raise full()
        assert sampling.seeds is not None
        ids = zip(prompts, sampling.seeds, strict=True)
        return [Rollout(completion_ids=(*prompt, seed), finish_reason="stop") for prompt, seed in ids]

    sampling = Sampling(max_new_tokens=4, seeds=tuple(range(20)))
    found = in_batches([[n] for n in range(20)], sampling, 8, complete, done.append, shrunk.append)
    assert [rollout.completion_ids for rollout in found] == [(n, n) for n in range(20)]
    assert sizes == [8, 8, 4, 2, 2, 2, 2, 2, 2]
    assert shrunk == [4, 2]
    assert sum(done) == 20


def test_an_engine_remembers_and_says_so(tiny_model: Any) -> None:
    engine = engines.InProcessEngine(tiny_model(), [1], 0, batch_size=8)
    said = list[str]()
    engine.on_warning = said.append
    engine.shrink(4)
    assert engine.batch_size == 4
    assert said == ["Memory was full: 4 completions at most are sampled together, with the same result."]


@pytest.mark.parametrize("size", [1, 2])
def test_sampling_that_does_not_fit_at_all(size: int) -> None:
    def complete(prompts: Any, sampling: Sampling) -> list[Rollout]:
        raise full()

    prompts = [[1]] * 3
    sampling = Sampling(max_new_tokens=4, seeds=(1, 2, 3))
    said = mistake(in_batches, prompts, sampling, size, complete, None, lambda size: None)
    assert said.startswith("Memory is full even with one row at a time.")
    with pytest.raises(torch.OutOfMemoryError):
        in_batches(prompts, sampling, size, complete)
