"""What a run refuses to go on with, and what it allows."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from selfdistill import run_folder
from selfdistill.method.fingerprints import PROCESSES, changes, in_words
from tests.support.checkpointed import CHECKPOINTS, finished, resumed
from tests.support.mistakes import mistake
from tests.support.tiny import byte_tokenizer
from tests.support.training import ROWS, lines, make_trainer, steps, student

ANCHORS = [{"prompt": f"Say {n} words."} for n in range(3)]
OTHER_TEMPLATE = byte_tokenizer()
OTHER_TEMPLATE.chat_template = str(OTHER_TEMPLATE.chat_template).replace("[{{", "[ {{")


@pytest.mark.parametrize(
    ("settings", "arguments", "name"),
    [
        ({"seed": 7}, {}, "seed 42, now 7"),
        ({"data_seed": 7}, {}, "data_seed None, now 7"),
        ({"per_device_train_batch_size": 2}, {}, "per_device_train_batch_size 4, now 2"),
        ({"gradient_accumulation_steps": 1}, {}, "gradient_accumulation_steps 2, now 1"),
        ({"template": "few_shot"}, {}, "template 'prior_turn', now 'few_shot'"),
        ({"max_completion_length": 9}, {}, "max_completion_length 8, now 9"),
        ({"method": "offline"}, {}, "made with method 'sdft', now 'offline'"),
        ({"method": "sft", "max_completion_length": 64}, {}, "made with method 'sdft', now 'sft'"),
        ({"teacher": "frozen"}, {}, "teacher"),
        ({"teacher_update_rate": 0.1}, {}, "teacher_update_rate 0.5, now 0.1"),
        ({"temperature": 0.5}, {}, "temperature"),
        ({"divergence": "jsd"}, {}, "divergence "),
        ({"learning_rate": 1e-4}, {}, "learning_rate 0.01, now 0.0001"),
        ({"weight_decay": 0.1}, {}, "weight_decay 0.0, now 0.1"),
        ({"max_steps": 5}, {}, "max_steps 4, now 5"),
        ({"optim": "sgd"}, {}, "optim "),
        ({"anchor_share": 0.34}, {"options": {"anchor_dataset": ANCHORS}}, "anchor"),
        ({}, {"rows": ROWS[::-1]}, "training rows "),
        ({}, {"rows": [*ROWS[:-1], {"prompt": "What is 7?", "demonstration": "No."}]}, "training rows "),
        ({}, {"rows": ROWS[:4]}, "training rows 8 ("),
        ({}, {"tokenizer": OTHER_TEMPLATE}, "chat template"),
        ({}, {"model": student(torch.bfloat16)}, "dtype float32, now bfloat16"),
        ({}, {"model": student(rope_theta=500.0)}, "model config "),
        ({}, {"options": {"peft_config": LoraConfig(r=2, target_modules="all-linear")}}, "adapter default"),
    ],
)
def test_a_change_on_the_way_is_refused_by_name(tmp_path: Path, settings: Any, arguments: Any, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished(tmp_path), run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    chosen = {**CHECKPOINTS, **settings}
    if settings.get("method") == "sft" or "teacher" in settings:
        del chosen["teacher_update_rate"]
    said = mistake(make_trainer(run, **arguments, **chosen).train, resume_from_checkpoint=True)
    assert "checkpoint-4 was made with " in said
    assert name in said
    assert said.endswith("--allow_changes.")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_what_changes_no_weight_may_differ(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished(tmp_path), run)
    free = {"logging_steps": 3, "save_steps": 1, "save_total_limit": 5, "rollouts_logged_per_step": 0}
    assert resumed(make_trainer(run, **{**CHECKPOINTS, **free})) == []


def test_another_version_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished(tmp_path), run)
    monkeypatch.setattr(run_folder, "versions", lambda: {"torch": "9.9", "new": "1"})
    (said,) = resumed(make_trainer(run, **CHECKPOINTS))
    assert said == f"checkpoint-4 was made with torch {torch.__version__}, this is 9.9: results may differ."


def test_another_base_of_an_adapter_is_refused(tmp_path: Path) -> None:
    """Only the adapter is in the checkpoint."""
    adapter = LoraConfig(r=2, target_modules="all-linear")
    make_trainer(tmp_path, options={"peft_config": adapter}, **CHECKPOINTS).train()
    other = student()
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    trainer = make_trainer(tmp_path, model=other, options={"peft_config": adapter}, **CHECKPOINTS)
    assert "frozen weights " in mistake(trainer.train, resume_from_checkpoint=True)


def test_changes_that_are_allowed_are_told_and_made(tmp_path: Path) -> None:
    """A cosine over four steps from 0.01 goes on as one over eight steps from 0.02: after step n of a schedule over N
    the rate is base (1 + cos(pi n / N)) / 2, and a line has that of before its step."""
    cosine = {**CHECKPOINTS, "lr_scheduler_type": "cosine", "num_train_epochs": 8}
    make_trainer(tmp_path, **cosine).train()
    changed = {"learning_rate": 0.02, "max_steps": 8, "weight_decay": 0.1}
    trainer = make_trainer(tmp_path, **{**cosine, **changed})
    said = resumed(trainer, allow_changes=True)
    assert set(said) == {
        "learning_rate was 0.01 until step 4, from now on it is 0.02.",
        "max_steps was 4 until step 4, from now on it is 8.",
        "weight_decay was 0.0 until step 4, from now on it is 0.1.",
    }
    rates = [line["learning_rate"] for line in steps(tmp_path)]
    assert rates[:4] == pytest.approx([0.01, 0.0085355, 0.005, 0.0014645], abs=1e-6)
    assert rates[4:] == pytest.approx([0.01, 0.0061732, 0.0029289, 0.0007612], abs=1e-6)
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.0, 0.1}
    assert json.loads((tmp_path / "run_config.json").read_text())["settings"]["learning_rate"] == 0.02


@pytest.mark.parametrize(
    ("settings", "arguments", "words"),
    [
        ({"optim": "sgd"}, {}, "optim can't be changed"),
        ({}, {"model": student(torch.bfloat16)}, "dtype can't be changed"),
        ({"teacher": "live"}, {}, "teacher weights do not fit the model"),
    ],
)
def test_what_does_not_fit_is_refused_even_if_allowed(
    tmp_path: Path, settings: Any, arguments: Any, words: str
) -> None:
    make_trainer(tmp_path, **CHECKPOINTS).train()
    chosen = {**CHECKPOINTS, **settings}
    if settings.get("teacher") == "live":
        del chosen["teacher_update_rate"]
    other = make_trainer(tmp_path, **arguments, **chosen)
    other.checkpoints.on_warning = lambda _: None
    said = mistake(other.train, resume_from_checkpoint=True, allow_changes=True)
    assert "checkpoint-4 is of a run with other settings: " in said
    assert words in said


def test_rows_in_another_order_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another release shuffled in another way."""
    from selfdistill.method import trainer_state

    make_trainer(tmp_path, **CHECKPOINTS).train()
    shutil.rmtree(tmp_path / "checkpoint-4")
    monkeypatch.setattr(trainer_state, "order_of", lambda indices: "another")
    trainer = make_trainer(tmp_path, **CHECKPOINTS)
    assert "the training rows come in another order" in mistake(trainer.train, resume_from_checkpoint=True)


def test_the_seed_of_the_order_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    """The order comes from the seed that torch's generator had when training began, whoever set it."""

    settings = {**CHECKPOINTS, "per_device_train_batch_size": 1}
    whole = make_trainer(tmp_path / "run", **settings)
    torch.manual_seed(123)
    whole.train()
    rollouts = lines(tmp_path / "run", "rollouts.jsonl")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    make_trainer(tmp_path / "run", **settings).train(resume_from_checkpoint=True)
    assert lines(tmp_path / "run", "rollouts.jsonl") == rollouts


def test_a_checkpoint_that_names_no_number_of_processes_is_of_one(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run", **CHECKPOINTS)
    trainer.train()
    now = trainer.run_config
    assert now.fingerprints[PROCESSES] == "1"
    unnamed = replace(now, fingerprints={name: v for name, v in now.fingerprints.items() if name != PROCESSES})
    assert changes(unnamed, now) == {}
    of_two = replace(now, fingerprints={**now.fingerprints, PROCESSES: "2"})
    assert changes(unnamed, of_two) == {PROCESSES: ("1", "2")}
    assert in_words(changes(of_two, unnamed)) == "processes 2, now 1"
