"""A run that was stopped and goes on is the run that was never stopped."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from selfdistill import SDFTTrainer
from selfdistill.method import run_log
from tests.support.engines import Scripted
from tests.support.mistakes import mistake
from tests.support.tiny import random_model
from tests.support.training import SIZES, lines, make_trainer, script, steps, student, weights

ANCHORS = [{"prompt": f"Say {n} words."} for n in range(3)]
TIMES = ("wall_seconds", "seconds/", "train_")
CHECKPOINTS: dict[str, Any] = {"max_steps": 4, "num_train_epochs": 4, "save_strategy": "steps", "save_steps": 2}


class StoppedError(Exception):
    """The run is killed."""


def stop_before(trainer: SDFTTrainer, number: int) -> None:
    """The run ends as step ``number`` (from 0) is about to sample."""
    rollout = trainer.step.rollout

    def stop(pairs: Any, step: int) -> Any:
        if step == number:
            raise StoppedError
        return rollout(pairs, step)

    trainer.step.rollout = stop  # type: ignore[method-assign]


def untimed(folder: Path) -> list[dict[str, Any]]:
    """The steps of a run's metrics without what no two runs have in common."""
    return [{n: v for n, v in line.items() if not n.startswith(TIMES)} for line in steps(folder)]


def base() -> dict[str, torch.Tensor]:
    return {name: p.detach() * 1.5 for name, p in random_model(**SIZES).named_parameters()}


@pytest.mark.parametrize(
    ("settings", "options", "dtype"),
    [
        pytest.param({"teacher_update_rate": 0.5, "teacher_sync_steps": 3}, {}, torch.float32, id="ema"),
        pytest.param({"teacher_update_rate": 0.5, "optim": "adamw_torch"}, {}, torch.bfloat16, id="ema-bf16"),
        pytest.param({"teacher": "frozen", "anchor_share": 0.34}, {}, torch.float32, id="frozen-anchors"),
        pytest.param({"teacher": "frozen", "anchor_share": 0.34}, {}, torch.bfloat16, id="frozen-anchors-bf16"),
        pytest.param(
            {"method": "reinvoke", "anchor_share": 0.34}, {"base_weights": base()}, torch.float32, id="reinvoke-anchors"
        ),
        pytest.param(
            {"method": "sft", "anchor_share": 0.1, "max_completion_length": 64}, {}, torch.float32, id="sft-anchors"
        ),
        pytest.param(
            {"teacher_update_rate": 0.5},
            {"peft_config": LoraConfig(r=2, target_modules="all-linear")},
            torch.bfloat16,
            id="lora-bf16",
        ),
    ],
)
def test_a_resumed_run_goes_on_as_if_never_stopped(
    tmp_path: Path, settings: dict[str, Any], options: dict[str, Any], dtype: torch.dtype
) -> None:
    """Real completions: weights, records and the numbers that add up are those of the whole run."""

    def made(name: str) -> SDFTTrainer:
        chosen = {"rollout_engine": "own", "rollouts_logged_per_step": None, **CHECKPOINTS, **settings}
        own = {"anchor_dataset": ANCHORS, **options}
        torch.manual_seed(0)  # an adapter begins with random weights
        return make_trainer(tmp_path / name, model=student(dtype), options=own, **chosen)

    whole, cut, resumed = made("whole"), made("cut"), made("cut")
    whole.train()
    stop_before(cut, 3)
    with pytest.raises(StoppedError):
        cut.train()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    for name, weight in weights(whole).items():
        assert torch.equal(weights(resumed)[name], weight)
    assert lines(tmp_path / "cut", "rollouts.jsonl") == lines(tmp_path / "whole", "rollouts.jsonl")
    assert untimed(tmp_path / "cut") == untimed(tmp_path / "whole")
    assert [line["step"] for line in untimed(tmp_path / "cut")] == [1, 2, 3, 4]


def test_what_adds_up_goes_on_from_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes ten seconds, of which the killed run's last ones are lost; the pause between the two counts not."""
    now = [0.0]
    monkeypatch.setattr(run_log.time, "perf_counter", lambda: now[0])
    complete = script()

    def slow(prompt: Any) -> Any:
        now[0] += 10 / 8
        return complete(prompt)

    cut = make_trainer(tmp_path, engine=Scripted(slow), **CHECKPOINTS)
    stop_before(cut, 3)
    with pytest.raises(StoppedError):
        cut.train()
    assert [line["wall_seconds"] for line in steps(tmp_path)] == [10, 20, 30]
    before = steps(tmp_path)
    now[0] = 5000.0
    make_trainer(tmp_path, engine=Scripted(slow), **CHECKPOINTS).train(resume_from_checkpoint=True)
    after = steps(tmp_path)
    assert [line["wall_seconds"] for line in after] == [10, 20, 30, 40]
    assert [line["tokens_seen"] for line in after[:3]] == [line["tokens_seen"] for line in before]
    assert all(one["tokens_seen"] < other["tokens_seen"] for one, other in pairwise(after))
    assert all(one["flos"] < other["flos"] for one, other in pairwise(after))


def test_flos_are_those_of_the_steps(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=2, num_train_epochs=2)
    counted: list[int] = []
    flops = trainer.step.flops

    def noted(micro_batch: Any) -> int:
        counted.append(flops(micro_batch))
        return counted[-1]

    trainer.step.flops = noted  # type: ignore[method-assign]
    trainer.train()
    assert [line["flos"] for line in steps(tmp_path)] == [sum(counted[:2]), sum(counted)]


# -- checkpoints that can't be resumed from --------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "trainer_state.json",
        "optimizer.pt",
        "scheduler.pt",
        "master_weights.safetensors",
        "teacher.safetensors",
        "run_state.json",
    ],
)
def test_a_checkpoint_that_was_cut_off_is_named_with_what_it_lacks(tmp_path: Path, name: str) -> None:
    make_trainer(tmp_path, **CHECKPOINTS).train()
    for folder in tmp_path.glob("checkpoint-*"):
        (folder / name).unlink()
    trainer = make_trainer(tmp_path, **CHECKPOINTS)
    recorded = (tmp_path / "metrics.jsonl").read_bytes()
    assert f"checkpoint-4 has no {name}:" in mistake(trainer.train, resume_from_checkpoint=True)
    assert f"checkpoint-2 has no {name}:" in mistake(trainer.train, str(tmp_path / "checkpoint-2"))
    assert (tmp_path / "metrics.jsonl").read_bytes() == recorded


def test_without_a_checkpoint_there_is_nothing_to_resume_from(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, **CHECKPOINTS)
    assert "holds no checkpoint" in mistake(trainer.train, resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [({}, torch.bfloat16), ({"teacher": "live"}, torch.float32), ({"anchor_share": 0.34}, torch.float32)],
    ids=["dtype", "teacher", "anchors"],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, settings: Any, dtype: torch.dtype) -> None:
    make_trainer(tmp_path, **CHECKPOINTS).train()
    options = {"anchor_dataset": ANCHORS}
    other = make_trainer(tmp_path, model=student(dtype), options=options, **CHECKPOINTS, **settings)
    assert "checkpoint-4 is of a run with other settings: " in mistake(other.train, resume_from_checkpoint=True)


# -- one model, several trainings ------------------------------------------------------------------


@pytest.mark.parametrize("first_trains", [True, False])
def test_a_bf16_model_can_be_trained_again(tmp_path: Path, first_trains: bool) -> None:
    model = student(torch.bfloat16)
    first = make_trainer(tmp_path / "first", model=model)
    if first_trains:
        first.train()
    between = weights(first)
    second = make_trainer(tmp_path / "second", model=model)
    second.train()
    moved = [name for name, weight in weights(second).items() if not torch.equal(weight, between[name])]
    assert len(moved) > 10
    assert steps(tmp_path / "second")[0]["grad_norm"] > 0
    fresh = student(torch.bfloat16)
    fresh.load_state_dict(between)
    alone = make_trainer(tmp_path / "alone", model=fresh)
    alone.train()
    assert all(torch.equal(weights(alone)[name], weight) for name, weight in weights(second).items())


def test_other_optimizers_can_train_a_bf16_model_afterwards(tmp_path: Path) -> None:
    model = student(torch.bfloat16)
    make_trainer(tmp_path, model=model).train()
    assert all(parameter.grad is None for parameter in model.parameters())
    ids = torch.tensor([[3, 4, 5, 6]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_an_interrupted_step_are_not_added_to_the_next(tmp_path: Path, dtype: torch.dtype) -> None:
    """Stopped between the micro-batches of step 3; the same trainer goes on from the checkpoint of step 2."""
    whole = make_trainer(tmp_path / "whole", model=student(dtype), **CHECKPOINTS)
    whole.train()
    cut = make_trainer(tmp_path / "cut", model=student(dtype), **CHECKPOINTS)
    learn, calls = cut.step.learn, [0]

    def interrupted(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return learn(*arguments)

    cut.step.learn = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    assert cut.state.global_step == 2
    cut.train(resume_from_checkpoint=True)
    for name, weight in weights(whole).items():
        assert torch.equal(weights(cut)[name], weight)
    assert [row["step"] for row in lines(tmp_path / "cut", "rollouts.jsonl")] == [
        s for s in (1, 2, 3, 4) for _ in "four"
    ]
