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
    "--gradient_accumulation_steps=2",
    "--max_completion_length=40",
    "--learning_rate=1e-4",
    "--limit=24",
]
SHOWN = "--template=prior_turn"
SHORT = "--max_completion_length=12"
"""Where completions are sampled: what is looked at needs no longer ones."""


def train(folder: Path, *argv: str) -> list[dict[str, Any]]:
    """Trains; returns the lines of metrics.jsonl that are steps."""
    assert main(["train", "--output_dir", str(folder), *SMALL, *argv]) == 0
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
def test_every_target_runs_two_steps(tmp_path: Path, flags: list[str]) -> None:
    lines = train(tmp_path, *flags, SHOWN, "--max_steps=2", SHORT)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(0 < line["loss"] < 10 and line["grad_norm"] > 0 for line in lines)
    saved = json.loads((tmp_path / "run_config.json").read_text())
    target = flags[0].partition("=")[2]
    assert saved["settings"]["target"] == target
    assert saved["deviations_from_paper"]["target"] == [target, "teacher"]


@pytest.mark.parametrize(
    ("flags", "metric"),
    [
        (["--completion_source=interleaved", "--interleaved_top_k=3"], "replaced_share"),
        (["--completion_source=accepted"], "rejected_share"),
        (["--completion_source=mixture", "--mixture_share=0.5", "--num_rollouts=2"], "mixture_share"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_source_runs_two_steps(tmp_path: Path, flags: list[str], metric: str) -> None:
    longest = "--max_completion_length=60" if "mixture" in flags[0] else SHORT  # a demonstration has to fit
    lines = train(tmp_path, *flags, SHOWN, "--max_steps=2", longest)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(0 < line["loss"] < 10 and 0 < line[metric] <= 1 for line in lines)


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_runs_three_steps(tmp_path: Path, method: Method) -> None:
    spec = METHODS[method]
    extra = ["--base_model=smollm2-135m"] if spec.teacher == "base_model" else []
    extra += [SHOWN] if spec.shows_demonstration else []
    extra += [SHORT] if spec.samples else []
    lines = train(tmp_path, "--method", method, "--max_steps=3", *extra)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["loss"] >= 0 and line["grad_norm"] >= 0 for line in lines)
    if method == "reinvoke":  # student and base are the same weights: nothing to learn, exactly
        assert lines[0]["loss"] == 0
    rollout = read_records(tmp_path / "rollouts.jsonl", RolloutRecord)[0]
    values = rollout.per_token_cross_entropy if spec.target == "tokens" else rollout.per_token_kl
    assert len(values) == len(rollout.loss_positions) == len(rollout.completion_ids)
    record = read_record(tmp_path / "run_config.json", RunConfig)
    assert (record.settings["method"], record.model_name) == (method, "smollm2-135m")
    assert record.versions["torch"]


def test_same_seed_same_losses_and_resume_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", SHOWN, SHORT, "--max_steps=4")
    again = train(tmp_path / "again", SHOWN, SHORT, "--max_steps=4", "--save_steps=2")
    losses = [line["loss"] for line in whole]
    assert losses == [line["loss"] for line in again]
    assert len(set(losses)) == 4
    last = tmp_path / "again" / "checkpoint-4"
    last.rename(tmp_path / "aside")  # as if the run had been killed after step 2
    resumed = train(tmp_path / "again", SHOWN, SHORT, "--max_steps=4", "--save_steps=2", "--resume")
    assert [line["loss"] for line in resumed] == losses
    assert [line["tokens_seen"] for line in resumed] == [line["tokens_seen"] for line in whole]


def test_anchors_join_every_batch(tmp_path: Path) -> None:
    lines = train(tmp_path, "--method=sft", "--max_steps=2", "--anchor_share=0.5")
    assert lines[0]["anchor_divergence"] < 1e-3  # the start model against itself, but for rounding
    assert all("cross_entropy" in line for line in lines)


def test_an_adapter_beside_weights_of_4_bits(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    flags = [SHOWN, "--lora_r=4", "--quantize=4bit", "--max_steps=3", "--activation_checkpointing"]
    flags += ["--max_completion_length=8", "--gradient_accumulation_steps=1"]
    lines = train(out, *flags)
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
    assert len(train(out, SHOWN, SHORT, "--lora_r=4", "--max_steps=2")) == 2
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "model.safetensors").exists()
    assert main(["eval", "--model_path", str(out), "--output_dir", str(tmp_path / "eval"), "--limit=2"]) == 0
    results = json.loads((tmp_path / "eval" / "eval_results.json").read_text())
    assert results["num_total"] == 2


def test_tooluse_on_real_data(tmp_path: Path, real_data: Path) -> None:
    train(tmp_path / "out", SHOWN, SHORT, "--dataset_name=tooluse", f"--data_dir={real_data}", "--max_steps=1")
    argv = ["--dataset_name", "tooluse", "--data_dir", str(real_data), "--model_path", str(tmp_path / "out")]
    assert main(["eval", *argv, "--limit=2", "--max_new_tokens=8", "--output_dir", str(tmp_path / "eval")]) == 0
    results = json.loads((tmp_path / "eval" / "eval_results.json").read_text())
    for key in ("accuracy", "num_correct", "num_total", "per_sample_scores", "config", "interval"):
        assert key in results
    responses = json.loads((tmp_path / "eval" / "eval_responses.json").read_text())
    assert [response["id"] for response in responses] == ["tooluse/eval/0", "tooluse/eval/1"]
