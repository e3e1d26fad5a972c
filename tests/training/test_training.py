"""Every method on the embedded model, a few steps each: runs, records, resumes, repeats itself."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from safetensors.torch import load_file

from selfdistill.cli import main
from selfdistill.method.methods import METHODS
from selfdistill.models.loading import load_model
from selfdistill.models.quantization import quantized_to
from selfdistill.records.runs import RolloutRecord, RunConfig
from selfdistill.run_folder import read_record, read_records
from selfdistill.types import Method
from tests.support.training import steps

pytestmark = pytest.mark.model

SMALL = [
    "--per_device_train_batch_size=2",
    "--gradient_accumulation_steps=1",
    "--max_completion_length=8",
    "--learning_rate=1e-4",
    "--max_steps=3",
]
SHOWN = "--template=prior_turn"
FROZEN = (SHOWN, "--teacher=frozen")
"""Where the teacher's average, which takes a fifth of a run, is not what is looked at."""


def train(folder: Path, *argv: str) -> list[dict[str, Any]]:
    """Trains on short rows, unless ``argv`` name others; returns the lines of metrics.jsonl that are steps."""
    rows = folder.parent / f"{folder.name}.jsonl"
    asked = ({"prompt": f"{n} + 1 =", "demonstration": f"It is {n + 1}."} for n in range(6))
    rows.write_text("".join(json.dumps(row) + "\n" for row in asked))
    own = [] if any(flag.startswith("--dataset_name") for flag in argv) else [f"--dataset_path={rows}"]
    assert main(["train", "--output_dir", str(folder), *SMALL, *own, *argv]) == 0
    return steps(folder)


@pytest.mark.parametrize(
    "flags",
    [
        ["--target=mix", "--target_weight=0.7", "--token_weight=support"],
        ["--target=budget", "--target_budget=0.05", "--vocab_clip=0.05"],
        ["--target=contrast", "--token_weight=position", "--token_weight_half_life=8"],
    ],
    ids=lambda flags: flags[0],
)
def test_every_target_runs_three_steps(tmp_path: Path, flags: list[str]) -> None:
    lines = train(tmp_path / "out", *flags, *FROZEN)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(0 < line["loss"] < 10 and line["grad_norm"] > 0 for line in lines)
    record = read_record(tmp_path / "out" / "run_config.json", RunConfig)
    target = flags[0].partition("=")[2]
    assert record.settings["target"] == target
    assert record.deviations_from_paper["target"] == (target, "teacher")


@pytest.mark.parametrize(
    ("flags", "metric"),
    [
        (["--completion_source=interleaved", "--interleaved_top_k=3", "--token_weight=late"], "replaced_share"),
        (["--completion_source=accepted", "--token_weight=entropy"], "rejected_share"),
        (["--completion_source=mixture", "--mixture_share=0.5", "--num_rollouts=2"], "mixture_share"),
        (["--completion_source=mixture", "--mixture_share=0.5", "--mixture_target=tokens"], "mixture_share"),
    ],
    ids=lambda value: f"{value[0]}{value[-1]}" if isinstance(value, list) else "",
)
def test_every_source_runs_three_steps(tmp_path: Path, flags: list[str], metric: str) -> None:
    lines = train(tmp_path / "out", *flags, *FROZEN)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(0 < line["loss"] < 10 and 0 < line[metric] <= 1 for line in lines)


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_runs_three_steps(tmp_path: Path, method: Method) -> None:
    spec = METHODS[method]
    extra = ["--base_model=smollm2-135m"] if spec.teacher == "base_model" else []
    extra += [SHOWN] if spec.shows_demonstration else []
    out = tmp_path / "out"
    lines = train(out, "--method", method, *extra)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["loss"] >= 0 and line["grad_norm"] >= 0 for line in lines)
    if method == "reinvoke":  # student and base are the same weights: nothing to learn, exactly
        assert lines[0]["loss"] == 0
    rollout = read_records(out / "rollouts.jsonl", RolloutRecord)[0]
    values = rollout.per_token_cross_entropy if spec.target == "tokens" else rollout.per_token_kl
    assert len(values) == len(rollout.loss_positions) == len(rollout.completion_ids)
    record = read_record(out / "run_config.json", RunConfig)
    assert (record.settings["method"], record.model_name) == (method, "smollm2-135m")
    assert record.versions["torch"]


def test_same_seed_same_losses_and_resume_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", SHOWN, "--teacher=live")
    again = train(tmp_path / "again", SHOWN, "--teacher=live", "--save_steps=2")
    losses = [line["loss"] for line in whole]
    assert losses == [line["loss"] for line in again]
    assert len(set(losses)) == 3
    last = tmp_path / "again" / "checkpoint-3"
    last.rename(tmp_path / "aside")  # as if the run had been killed after step 2
    resumed = train(tmp_path / "again", SHOWN, "--teacher=live", "--save_steps=2", "--resume")
    assert [line["loss"] for line in resumed] == losses
    assert [line["tokens_seen"] for line in resumed] == [line["tokens_seen"] for line in whole]


def test_anchors_join_every_batch(tmp_path: Path) -> None:
    lines = train(tmp_path / "out", "--method=sft", "--anchor_share=0.5")
    assert lines[0]["anchor_divergence"] < 1e-3  # the start model against itself, but for rounding
    assert all("cross_entropy" in line for line in lines)


def test_an_adapter_beside_weights_of_4_bits(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    flags = ["--lora_r=4", "--quantize=4bit", "--activation_checkpointing", "--per_device_train_batch_size=1"]
    lines = train(out, SHOWN, *flags)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["loss"] > 0 and line["grad_norm"] > 0 for line in lines)
    assert read_record(out / "run_config.json", RunConfig).quantize == "4bit"
    saved = load_file(out / "adapter_model.safetensors")
    assert len(saved) == 2 * 7 * 30
    assert all(weight.abs().max() > 0 for weight in saved.values())  # B begins with zeros
    whole = load_model(str(out), device="cpu")  # merged into the weights that were not quantized
    assert quantized_to(whole) is None


def test_lora_trains_adapters_only_and_evaluates(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert len(train(out, SHOWN, "--lora_r=4", "--max_steps=2")) == 2
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "model.safetensors").exists()
    argv = [f"--model_path={out}", f"--output_dir={tmp_path / 'eval'}", "--limit=2", "--max_new_tokens=8"]
    assert main(["eval", *argv]) == 0
    results = json.loads((tmp_path / "eval" / "eval_results.json").read_text())
    assert results["num_total"] == 2


def test_tooluse_on_real_data(tmp_path: Path, real_data: Path) -> None:
    data = ["--dataset_name=tooluse", f"--data_dir={real_data}"]
    train(tmp_path / "out", SHOWN, *data, "--max_steps=1", "--per_device_train_batch_size=1")
    argv = [*data, f"--model_path={tmp_path / 'out'}"]
    assert main(["eval", *argv, "--limit=2", "--max_new_tokens=8", "--output_dir", str(tmp_path / "eval")]) == 0
    results = json.loads((tmp_path / "eval" / "eval_results.json").read_text())
    for key in ("accuracy", "num_correct", "num_total", "per_sample_scores", "config", "interval"):
        assert key in results
    responses = json.loads((tmp_path / "eval" / "eval_responses.json").read_text())
    assert [response["id"] for response in responses] == ["tooluse/eval/0", "tooluse/eval/1"]
