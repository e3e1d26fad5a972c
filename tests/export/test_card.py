"""The model card says what the records say, with intervals, and nothing of the rows."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfdistill.errors import UserError
from selfdistill.export.card import card, first_model, hub_id, public_name
from selfdistill.export.source import find_source
from tests.support.report_folders import answers, write_drift, write_eval
from tests.support.tiny_home import TinyHome


def made(name: str) -> str:
    return card(find_source(name), title="mine", form="safetensors", loading="Load it.\n", check="Checked.")


@pytest.fixture
def run(home: TinyHome) -> Path:
    """A run's folder that may be changed."""
    shutil.copytree(home.folder / "full", home.folder / "mine")
    return home.folder / "mine"


def changed(run: Path, **values: Any) -> None:
    path = run / "run_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_was_trained_and_how(run: Path) -> None:
    text = made("mine")
    assert "3 rows of rows.jsonl. They are not part of this folder." in text
    record = json.loads((run / "run_config.json").read_text())
    assert f"| training rows | `{record['fingerprints']['training rows']}` |" in text
    assert "| method | sdft |" in text
    assert "| teacher | ema |" in text
    assert "| start model | M |" in text
    for name, (ours, paper) in record["deviations_from_paper"].items():
        assert f"| {name} | {ours} | {paper} |" in text
    assert "Not evaluated." in text
    assert "Not measured: neither prior capabilities nor drift." in text
    assert str(run.parent) not in text


def test_skill_and_losses_with_intervals(run: Path) -> None:
    changed(run, task="assistant-tools")
    write_eval(run / "eval-before", answers([0] * 6 + [1] * 6))
    write_eval(run / "eval", answers([1] * 12))
    write_eval(run / "eval", answers([0] * 9, "prior-mmlu"), "prior-mmlu")
    write_drift(run / "eval", kl=0.25, nll=2.5, leak=0.5)
    text = made("mine")
    skill, cost = text.split("## Skill")[1].split("## What it cost")
    # 95% Wilson intervals of 6 and 12 of 12; six fixed, none broken: p = 2 / 2**6 = 0.03
    assert "| assistant-tools | exact | 12 | 50.0 [25.4, 74.6] | 100.0 [75.8, 100.0] | +50.0 [" in skill
    assert "] BETTER |" in skill
    assert "prior" not in skill
    assert "| prior-mmlu | exact | 9 |  | 0.0 [0.0, 29.9] | not compared |" in cost
    assert "KL(base‖model) 0.250 nats per token" in cost
    assert "answers in the task's format 50.0%" in cost


def test_a_scorer_of_ones_own_is_named_without_its_folder(run: Path) -> None:
    made_up = [replace(each, scores={"/secret/place/mine.py:score": 1.0}) for each in answers([1, 1, 1])]
    write_eval(run / "eval", made_up, metric="/secret/place/mine.py:score")
    text = made("mine")
    assert "| assistant-tools | mine.py:score | 3 |" in text
    assert "secret" not in text


def test_no_answer_and_no_prompt_is_in_it(run: Path) -> None:
    write_eval(run / "eval", answers([1, 0, 1], right="RIGHT ANSWER", wrong="WRONG ANSWER"))
    text = made("mine")
    assert all(secret not in text for secret in ("RIGHT ANSWER", "WRONG ANSWER", "Which tool fits?", "What is 1+1?"))
    assert "assistant-tools" in text


def test_of_a_checkpoint_nothing_is_claimed_that_was_measured_on_the_end(run: Path) -> None:
    write_eval(run / "eval", answers([1] * 12))
    text = made("mine/checkpoint-1")
    assert "Not evaluated." in text
    assert "| method | sdft |" in text


def test_the_hub_reads_where_it_comes_from(run: Path) -> None:
    changed(run, model_name="Qwen/Qwen2.5-0.5B-Instruct", dataset="me/rows:main@abc,/secret/place/rows.jsonl:2")
    head = made("mine").split("---")[1]
    assert "base_model: Qwen/Qwen2.5-0.5B-Instruct\nbase_model_relation: finetune" in head
    assert "datasets:\n- me/rows\n" in head
    assert "secret" not in made("mine")


def test_a_base_that_is_only_here_is_not_named_to_the_hub(run: Path) -> None:
    assert "base_model" not in made("mine").split("---")[1]


def test_the_first_of_several_runs_is_the_base(run: Path) -> None:
    changed(run, model_name="full")
    assert first_model(find_source("mine")) == "M"
    changed(run, model_name="mine")  # itself
    assert first_model(find_source("mine")) == "mine"


@pytest.mark.parametrize(
    ("name", "shown", "on_the_hub"),
    [
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
        ("me/rows:main@abc", "me/rows:main@abc", "me/rows"),
        ("/home/me/models/mine", "mine", None),
        ("data/rows.jsonl", "rows.jsonl", None),
        ("full/checkpoint-1", "checkpoint-1", None),
        ("assistant-tools", "assistant-tools", None),
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct (Q4_1)", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_names_without_this_machines_folders(home: TinyHome, name: str, shown: str, on_the_hub: str | None) -> None:
    assert (public_name(name), hub_id(name)) == (shown, on_the_hub)


def test_a_broken_record_is_told_before_anything_is_loaded(home: TinyHome, run: Path) -> None:
    (run / "run_config.json").write_text("{")
    message = home.refused("export", "mine", "--to=gguf", "--output_dir=out", code=6)
    assert "run_config.json can't be read" in message
    with pytest.raises(UserError):
        made("mine")
