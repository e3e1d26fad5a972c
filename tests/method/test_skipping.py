"""Steps whose gradients are not finite."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill import SDFTTrainer
from selfdistill.errors import NumbersError, UserError
from tests.support.training import lines, make_trainer, student, weights

NAN, INF = float("nan"), float("inf")
RUN: dict[str, Any] = {"per_device_train_batch_size": 2, "logging_steps": 1, "learning_rate": 1e-2}


def spoil(trainer: SDFTTrainer, steps: Collection[int], value: float = NAN) -> list[str]:
    """Puts ``value`` into one gradient at these steps (from 1). What is warned of is put into the returned list."""
    learn, warnings = trainer.step.learn, list[str]()

    def spoilt(*arguments: Any) -> Any:
        loss = learn(*arguments)
        if trainer.state.global_step + 1 in steps:
            name, _, master = list(trainer.step.masters.items())[1]
            assert master.grad is not None, name
            master.grad.view(-1)[-1] = value
        return loss

    trainer.step.learn = spoilt  # type: ignore[method-assign]
    trainer.checkpoints.on_warning = warnings.append
    return warnings


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [NAN, INF])
def test_such_a_step_moves_no_weight(tmp_path: Path, dtype: torch.dtype, clip: float, value: float) -> None:
    trainer = make_trainer(tmp_path, model=student(dtype), **RUN, max_steps=1, max_grad_norm=clip)
    warnings = spoil(trainer, [1], value)
    name = list(trainer.step.masters.parameters)[1]
    before = weights(trainer)
    trainer.train()
    assert all(torch.equal(before[name], weight) for name, weight in weights(trainer).items())
    assert warnings == [f"Step 1 is skipped, since gradients are not finite: {name}; the loss of all rows is finite."]
    assert lines(tmp_path, "metrics.jsonl")[0]["skipped_steps"] == 1


def test_training_goes_on_after_such_a_step(tmp_path: Path) -> None:
    """No two of the skipped steps are three in a row, and the moments know nothing of them."""
    trainer = make_trainer(tmp_path, **RUN, max_steps=6, optim="adamw_torch")
    warnings = spoil(trainer, [1, 2, 4, 5])
    before = weights(trainer)
    trainer.train()
    assert len(warnings) == 4
    assert [line.get("skipped_steps") for line in lines(tmp_path, "metrics.jsonl")[:6]] == [1, 2, 2, 3, 4, 4]
    after = weights(trainer)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.isfinite(weight).all() for weight in after.values())
    optimizer = trainer.optimizer
    assert optimizer is not None
    assert {float(state["step"]) for state in optimizer.state_dict()["state"].values()} == {2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_three_in_a_row_end_the_training(tmp_path: Path, dtype: torch.dtype) -> None:
    trainer = make_trainer(tmp_path, model=student(dtype), **RUN, max_steps=9, save_strategy="steps", save_steps=1)
    spoil(trainer, [3, 4, 5])
    name = list(trainer.step.masters.parameters)[1]
    with pytest.raises(NumbersError) as caught:
        trainer.train()
    assert str(caught.value) == (
        f"Steps up to 5, 3 in a row, have gradients that are not finite: {name}; the loss of all rows is finite. They "
        "changed nothing. Lower --learning_rate, or leave such rows out."
    )
    assert caught.value.exit_code == 4
    assert {line["step"] for line in lines(tmp_path, "rollouts.jsonl")} == {1, 2, 3, 4, 5}
    assert all(torch.isfinite(weight).all() for weight in weights(trainer).values())


def test_rows_with_such_a_loss_are_named(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, **RUN, max_steps=1)
    loss = trainer.step.loss

    def spoilt(part: Any) -> Any:
        found = loss(part)
        found.per_token[: part.counts[0]] = NAN
        return found

    trainer.step.loss = spoilt  # type: ignore[method-assign]
    warnings = spoil(trainer, [1])
    trainer.train()
    (text,) = warnings
    ids = {line["id"] for line in lines(tmp_path, "rollouts.jsonl") if None in line["per_token_kl"]}
    assert ids
    assert set(text.removesuffix(".").partition("; rows ")[2].split(", ")) == ids


def test_the_count_goes_on_in_a_resumed_run(tmp_path: Path) -> None:
    run: dict[str, Any] = {**RUN, "max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(tmp_path, **run)
    spoil(trainer, [1])
    trainer.train()
    for folder in ("checkpoint-2", "checkpoint-3"):
        (tmp_path / folder).rename(tmp_path / f"not-{folder}")
    resumed = make_trainer(tmp_path, **run)
    spoil(resumed, [2])
    resumed.train(resume_from_checkpoint=True)
    counts = [line["skipped_steps"] for line in lines(tmp_path, "metrics.jsonl") if "loss" in line]
    assert counts == [1, 2, 2]
    assert json.loads((tmp_path / "checkpoint-3" / "state" / "run_state.json").read_text())["skipped_steps"] == 2


def test_it_is_a_user_error() -> None:
    assert issubclass(NumbersError, UserError)
