"""A run that was stopped and goes on is the run that was never stopped."""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from selfdistill import SDFTTrainer
from selfdistill.method import run_log
from selfdistill.types import Rollout
from tests.support.engines import Scripted
from tests.support.tiny import random_model
from tests.support.training import SIZES, lines, make_trainer, script, steps, student, weights

ANCHORS = [{"prompt": f"Say {n} words."} for n in range(3)]
TIMES = ("wall_seconds", "seconds/", "train_runtime", "train_samples_per_second", "train_steps_per_second")
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
    """The lines of a run's metrics without what no two runs have in common."""
    return [{n: v for n, v in line.items() if not n.startswith(TIMES)} for line in lines(folder, "metrics.jsonl")]


def last_state(folder: Path) -> dict[str, Any]:
    """The contents of the last checkpoint's files, without times and the run's place."""
    (last,) = folder.glob("checkpoint-5")
    found: dict[str, Any] = {}
    for path in (path for path in last.rglob("*") if path.is_file() and path.name != "manifest.json"):
        name = path.relative_to(last).as_posix()
        found[name] = path.read_bytes() if path.suffix != ".json" else json.loads(path.read_text())
    for name, timed in (("trainer_state.json", "log_history"), ("state/run_state.json", "seconds")):
        found[name].pop(timed)
    found["state/run_config.json"]["settings"].pop("output_dir")
    return found


def base() -> dict[str, torch.Tensor]:
    return {name: p.detach() * 1.5 for name, p in random_model(**SIZES).named_parameters()}


def adapter() -> dict[str, Any]:
    return {"peft_config": LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1)}


RUN: dict[str, Any] = {
    "rollout_engine": "own",
    "rollouts_logged_per_step": None,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,  # four of eight rows a step: two steps are a pass
    "max_steps": 5,
    "num_train_epochs": 3,
    "save_strategy": "steps",
    "optim": "adamw_torch",
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "max_grad_norm": 1.0,
}


@pytest.mark.parametrize("save_steps", [2, 3], ids=["between-passes", "within-a-pass"])
@pytest.mark.parametrize(
    ("settings", "options", "dtype"),
    [
        pytest.param({"teacher_update_rate": 0.5, "teacher_sync_steps": 3}, {}, torch.float32, id="ema"),
        pytest.param({"teacher": "frozen", "teacher_restart_steps": 3}, {}, torch.float32, id="restarted"),
        pytest.param({"teacher_update_rate": 0.5, "logging_steps": 5}, {}, torch.bfloat16, id="ema-bf16-logging-5"),
        pytest.param({"teacher": "live", "optim": "adafactor"}, {}, torch.float32, id="live-adafactor"),
        pytest.param({"target": "mix", "teacher_update_rate": 0.5}, {}, torch.bfloat16, id="mix-bf16"),
        pytest.param({"target": "contrast", "token_weight": "support"}, {}, torch.float32, id="contrast"),
        pytest.param({"teacher": "frozen", "anchor_share": 0.34}, {}, torch.float32, id="frozen-anchors"),
        pytest.param({"teacher": "frozen", "anchor_share": 0.34}, {}, torch.bfloat16, id="frozen-anchors-bf16"),
        pytest.param(
            {"method": "reinvoke", "anchor_share": 0.34}, {"base_weights": base()}, torch.float32, id="reinvoke-anchors"
        ),
        pytest.param(
            {"method": "sft", "anchor_share": 0.1, "max_completion_length": 64}, {}, torch.float32, id="sft-anchors"
        ),
        pytest.param(
            {"method": "dft", "max_completion_length": 64, "rollout_engine": "auto"}, {}, torch.float32, id="dft"
        ),
        pytest.param(
            {"method": "cpt", "max_completion_length": 64, "logging_steps": 5, "rollout_engine": "auto"},
            {},
            torch.float32,
            id="cpt-logging-5",
        ),
        pytest.param({"method": "offline"}, {}, torch.float32, id="offline"),
        pytest.param({"teacher_update_rate": 0.5}, adapter(), torch.bfloat16, id="lora-bf16"),
    ],
)
def test_a_resumed_run_ends_as_if_never_stopped(
    tmp_path: Path, settings: dict[str, Any], options: dict[str, Any], dtype: torch.dtype, save_steps: int
) -> None:
    """Real completions: weights, optimizer, teacher, random numbers, records and all that adds up are the whole
    run's, to the byte."""

    def made(name: str) -> SDFTTrainer:
        own = {"anchor_dataset": ANCHORS, **options}
        torch.manual_seed(0)  # an adapter begins with random weights
        model = student(dtype, attention_dropout=0.1)
        return make_trainer(tmp_path / name, model=model, options=own, **{**RUN, "save_steps": save_steps, **settings})

    whole = made("whole")
    whole.train()
    cut = made("cut")
    stop_before(cut, 4)
    with pytest.raises(StoppedError):
        cut.train()
    torch.rand(7)  # as whatever another process drew before
    resumed = made("cut")
    resumed.train(resume_from_checkpoint=True)
    for name, weight in weights(whole).items():
        assert torch.equal(weights(resumed)[name], weight), name
    assert last_state(tmp_path / "cut") == last_state(tmp_path / "whole")
    assert lines(tmp_path / "cut", "rollouts.jsonl") == lines(tmp_path / "whole", "rollouts.jsonl")
    assert untimed(tmp_path / "cut") == untimed(tmp_path / "whole")
    assert untimed(tmp_path / "cut")[-1].keys() >= {"train_loss", "total_flos"}


@pytest.mark.parametrize("save_steps", [2, 3], ids=["between-passes", "within-a-pass"])
def test_random_numbers_go_on_where_they_were(tmp_path: Path, save_steps: int) -> None:
    """An engine that draws from every generator of the process."""

    def complete(prompt: Any) -> Rollout:
        ids = (int(torch.randint(60, 90, ())), random.randrange(60, 90), np.random.randint(60, 90))
        return Rollout(completion_ids=ids, finish_reason="stop")

    def made(name: str) -> SDFTTrainer:
        settings = {**RUN, "save_steps": save_steps}
        settings.pop("rollout_engine")
        return make_trainer(tmp_path / name, engine=Scripted(complete), **settings)

    made("whole").train()
    cut = made("cut")
    stop_before(cut, 4)
    with pytest.raises(StoppedError):
        cut.train()
    made("cut").train(resume_from_checkpoint=True)
    assert lines(tmp_path / "cut", "rollouts.jsonl") == lines(tmp_path / "whole", "rollouts.jsonl")
    assert last_state(tmp_path / "cut") == last_state(tmp_path / "whole")


@pytest.mark.parametrize("model_type", ["mixtral", "gemma2"])
def test_weights_come_back_whatever_the_files_call_them(tmp_path: Path, model_type: str) -> None:
    """The files of a mixture of experts have another weight for each expert, the model has one for all; of tied
    weights one is stored."""

    def made(name: str) -> SDFTTrainer:
        model = random_model(model_type, **SIZES)
        return make_trainer(tmp_path / name, model=model, **{**RUN, "rollout_engine": "generate"}, save_steps=2)

    whole = made("whole")
    whole.train()
    cut = made("cut")
    stop_before(cut, 4)
    with pytest.raises(StoppedError):
        cut.train()
    resumed = made("cut")
    resumed.train(resume_from_checkpoint=True)
    for name, weight in weights(whole).items():
        assert torch.equal(weights(resumed)[name], weight), name


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    """Its last step lies within a pass, so that rows are left in it."""
    make_trainer(tmp_path, **RUN, save_steps=2).train()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = make_trainer(tmp_path, **RUN, save_steps=2)
    outcome = again.train(resume_from_checkpoint=True)
    assert outcome.global_step == 5
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    saved = load_file(tmp_path / "checkpoint-5" / "model.safetensors")
    assert all(torch.equal(weights(again)[name], tensor) for name, tensor in saved.items())


def test_what_a_killed_run_had_no_time_to_delete_is_deleted(tmp_path: Path) -> None:
    """Here the last step is done, so that no save follows."""
    make_trainer(tmp_path, **RUN, save_steps=1).train()
    make_trainer(tmp_path, **RUN, save_steps=1, save_total_limit=2).train(resume_from_checkpoint=True)
    assert {folder.name for folder in tmp_path.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-5"}


def test_a_run_that_was_killed_before_its_last_line_gets_it(tmp_path: Path) -> None:
    make_trainer(tmp_path, **RUN, save_steps=2).train()
    path, whole = tmp_path / "metrics.jsonl", untimed(tmp_path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    make_trainer(tmp_path, **RUN, save_steps=2).train(resume_from_checkpoint=True)
    assert untimed(tmp_path) == whole


def test_training_twice_keeps_what_the_first_call_left(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, **RUN, save_steps=2)
    trainer.train()
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".json", ".jsonl")}
    assert kept.keys() == {"run_config.json", "metrics.jsonl", "rollouts.jsonl"}
    trainer.train()
    earlier = tmp_path / "earlier-1"
    assert {path.name: path.read_bytes() for path in earlier.iterdir() if path.is_file()} == kept
    assert sorted(path.name for path in earlier.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-5",
    ]
    assert [line["step"] for line in steps(tmp_path)] == [1, 2, 3, 4, 5]
    assert (tmp_path / "checkpoint-5").is_dir()


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
