"""``selfdistill train --eval_steps``: what is measured while a run goes on, and that the run is the same without."""

import re
from pathlib import Path
from typing import Any

import pytest

from selfdistill.training import run as training_run
from tests.support.killed import records, stopped
from tests.support.tiny_home import TinyHome, train

LONG = ("--max_steps=4", "--learning_rate=1e-2", "--save_steps=2", "--eval_share=0.4")
WATCHED = ("--eval_steps=2", "--scorer=scorer.py:drawn", "--drift_prompts=2")
SCORER = """
import random, numpy, torch

def drawn(completion, example):
    random.random()
    numpy.random.rand()
    torch.rand(1)
    return float((sum(map(ord, completion)) + len(example.id)) % 2)

def third(completion, example):
    return float(example.prompt[-1]["content"] in ("What is 1+1?", "What is 4+1?", "What is 7+1?"))

def never(completion, example):
    return None
"""


@pytest.fixture
def rows(home: TinyHome) -> TinyHome:
    """Ten rows, of which ``--eval_share=0.4`` holds out some, and scorers, one of which draws random numbers."""
    home.rows(*({"prompt": f"What is {n}+1?", "demonstration": str(n + 1)} for n in range(10)))
    (home.folder / "scorer.py").write_text(SCORER)
    return home


def evaluations(home: TinyHome, folder: str = "out") -> list[dict[str, Any]]:
    return [line for line in home.lines(f"{folder}/metrics.jsonl") if "eval/num_scored" in line]


def state(checkpoint: Path) -> dict[str, bytes]:
    """Everything that the run goes on from, but for what names its folder or counts seconds and lines."""
    files = (path for path in (checkpoint / "state").iterdir() if not path.name.startswith("run_"))
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "more",
    [(), ("--lora_r=2",), ("--method=sft",), ("--set=logging_steps=3", "--activation_checkpointing")],
    ids=["sdft", "lora", "sft", "logging-3"],
)
def test_a_run_that_is_watched_is_the_run_that_is_not(rows: TinyHome, more: tuple[str, ...]) -> None:
    assert rows.run(*train(*LONG, *more, output="plain")).code == 0
    assert rows.run(*train(*LONG, *more, *WATCHED, output="watched")).code == 0
    assert [line["step"] for line in evaluations(rows, "watched")] == [2, 4]
    weights, metrics, rollouts = records(rows, "watched")
    unwatched = [line for line in metrics if "eval/num_scored" not in line]
    assert (weights, unwatched, rollouts) == records(rows, "plain")
    assert state(rows.folder / "watched" / "checkpoint-4") == state(rows.folder / "plain" / "checkpoint-4")


def test_the_numbers_are_those_of_eval(rows: TinyHome) -> None:
    """After the last step the student is the model that is saved."""
    flags = ("--eval_steps=4", "--drift_prompts=64", "--max_completion_length=6", "--scorer=scorer.py:drawn")
    said = rows.run(*train(*LONG, *flags))
    assert said.code == 0
    (line,) = evaluations(rows)
    decoded = ("--model_path=out", "--dtype=float32")
    own = ("--dataset_path=rows.jsonl", "--eval_share=0.4", "--scorer=scorer.py:drawn", "--max_new_tokens=6")
    assert rows.run("eval", *decoded, *own).code == 0
    assert rows.run("eval", *decoded, "--dataset_name=drift", "--base_model=M").code == 0
    score, drift = rows.read("out/eval/custom.json"), rows.read("out/eval/drift.json")
    assert line["eval/accuracy"] == score["accuracy"]
    assert [line["eval/accuracy_low"], line["eval/accuracy_high"]] == score["interval"]
    assert line["eval/num_scored"] == score["num_total"] > 1
    assert line["eval/drift"] == pytest.approx(drift["kl_per_token"], rel=1e-5)
    assert line["eval/drift"] > 0.01
    assert line["eval/leak"] == drift["format_leak_rate"]
    assert f"step 4: {score['config']['metric']} {score['accuracy']:.1%} (" in said.out
    assert f"drift {line['eval/drift']:.3f} nats, leak 0%" in said.out


def answers(home: TinyHome, folder: str = "out") -> list[dict[str, Any]]:
    return home.lines(f"{folder}/answers.jsonl")


def test_answers_to_some_rows_are_kept_before_the_run_and_at_each_evaluation(rows: TinyHome) -> None:
    flags = ("--drift_prompts=0", "--scorer=scorer.py:drawn", "--max_completion_length=6")
    assert rows.run(*train(*LONG, *flags, "--eval_steps=2", "--eval_answers=2")).code == 0
    kept = answers(rows)
    assert [line["step"] for line in kept] == [0, 0, 2, 2, 4, 4]
    assert [line["id"] for line in kept[:2]] == [line["id"] for line in kept[2:4]] == [line["id"] for line in kept[4:]]
    own = ("--dataset_path=rows.jsonl", "--eval_share=0.4", "--scorer=scorer.py:drawn", "--max_new_tokens=6")
    for model, made, folder in (("M", kept[:2], "before"), ("out", kept[4:], "after")):
        shared = (f"--model_path={model}", "--dtype=float32", f"--output_dir={folder}")
        assert rows.run("eval", *shared, *own).code == 0
        scored = rows.lines(f"{folder}/custom.samples.jsonl")
        assert [line["completion"] for line in made] == [line["completion"] for line in scored[:2]]
        assert [line["score"] for line in made] == [next(iter(line["scores"].values())) for line in scored[:2]]
        assert [line["prompt"] for line in made] == [line["prompt"] for line in scored[:2]]
    assert kept[0]["completion"] != kept[4]["completion"] or kept[1]["completion"] != kept[5]["completion"]


def test_no_answers_are_kept_if_none_are_wanted(rows: TinyHome) -> None:
    assert rows.run(*train(*LONG, *WATCHED, "--eval_answers=0")).code == 0
    assert not (rows.folder / "out" / "answers.jsonl").exists()


@pytest.mark.parametrize("step", [2, 4])
def test_a_killed_run_has_each_evaluation_once(rows: TinyHome, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """It is killed before the step's own evaluation; the one before that is made again, since no checkpoint has it."""
    line = (*LONG, *WATCHED, "--eval_steps=1")
    assert rows.run(*train(*line, output="whole")).code == 0
    stopped(rows, monkeypatch, step, *train(*line, output="cut"))
    assert rows.run(*train(*line, output="cut")).code == 0
    assert [one["step"] for one in evaluations(rows, "cut")] == [1, 2, 3, 4]
    assert records(rows, "cut") == records(rows, "whole")
    assert answers(rows, "cut") == answers(rows, "whole")


def test_a_run_that_is_killed_before_its_first_checkpoint_begins_its_answers_anew(
    rows: TinyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(rows, monkeypatch, 1, *train(*LONG, *WATCHED, output="cut"))
    assert [line["step"] for line in answers(rows, "cut")][-1] == 0
    assert rows.run(*train(*LONG, *WATCHED, output="cut")).code == 0
    steps = [line["step"] for line in answers(rows, "cut")]
    assert steps == sorted(steps)
    assert steps.count(0) == steps.count(2) == steps.count(4)
    assert not list((rows.folder / "cut").glob("earlier-*"))


def test_rows_are_those_of_the_folders_own_split_up_to_eval_rows(rows: TinyHome) -> None:
    """Of rows 0 to 4 the scorer gives 1 to numbers 1 and 4."""
    (rows.folder / "data").mkdir()
    for split, place in (("train", 10), ("test", 0)):
        named = ({"prompt": f"What is {place + n}+1?", "demonstration": str(place + n + 1)} for n in range(10))
        rows.rows(*named, name=f"data/{split}.jsonl")
    watched = ("--eval_steps=2", "--eval_rows=5", "--drift_prompts=0", "--scorer=scorer.py:third")
    said = rows.run(*train(*watched, rows="data"))
    assert said.code == 0
    (line,) = evaluations(rows)
    assert (line["step"], line["eval/accuracy"], line["eval/num_scored"]) == (2, 0.4, 5)
    assert "eval/drift" not in line
    assert re.search(r"step 2: scorer.py:third@\w+ 40.0% \(12% to 77%\) on 5 held-out rows\n", said.out)


def test_a_named_task_has_rows_of_its_own(home: TinyHome) -> None:
    shown = ("--template=prior_turn", "--limit=4", "--max_completion_length=8", "--dtype=float32", "--max_steps=1")
    sizes = ("--per_device_train_batch_size=1", "--gradient_accumulation_steps=1")
    watched = ("--eval_steps=1", "--eval_rows=3", "--drift_prompts=0")
    said = home.run("train", "--model_name=M", "--output_dir=out", *shown, *sizes, *watched)
    assert said.code == 0
    assert "step 1: exact_call 0.0% (0% to 56%) on 3 held-out rows\n" in said.out


def test_rows_that_can_not_be_scored_end_no_run(rows: TinyHome) -> None:
    said = rows.run(*train(*LONG, "--eval_steps=2", "--drift_prompts=0", "--scorer=scorer.py:never"))
    assert said.code == 0
    assert [line["eval/accuracy"] for line in evaluations(rows)] == [None, None]
    assert re.search(r"step 2: scorer.py:never@\w+ could score none of \d held-out rows\n", said.out)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--eval_steps=1",), "--eval_steps: rows.jsonl has no split to evaluate on. Add --eval_share 0.1"),
        (("--eval_steps=3", "--eval_share=0.4"), "--eval_steps 3: the run has 2 steps, so nothing is evaluated."),
        (
            ("--eval_steps=6", "--eval_share=0.4", "--max_steps=-1", "--num_train_epochs=1.5"),
            "--eval_steps 6: the run has 5 steps, so nothing is evaluated.",
        ),
        (("--eval_steps=1", "--eval_share=0.4", "--scorer=judge"), "--eval_steps: the scorer judge asks a judge"),
        (("--eval_steps=0",), "eval_steps: 0 is not at least 1."),
        (("--eval_rows=5",), "--eval_rows 5 changes nothing without --eval_steps. Leave it out."),
        (("--eval_answers=2",), "--eval_answers 2 changes nothing without --eval_steps. Leave it out."),
        (("--drift_prompts=5",), "--drift_prompts 5 changes nothing without --eval_steps. Leave it out."),
        (("--scorer=numeric",), "--scorer numeric changes nothing without --eval_steps. Leave it out."),
        (("--set=eval_steps=2",), "eval_steps has a flag of its own. Give --eval_steps 2."),
        (("--set=eval_strategy=steps",), "eval_strategy='steps' needs rows to evaluate on."),
    ],
)
def test_what_is_refused_before_the_model_is_loaded(
    rows: TinyHome, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(training_run, "load_student", None)
    assert message in rows.refused(*train(*flags))


def test_a_held_out_prompt_that_fills_the_context_is_refused_before_the_model_is_loaded(
    rows: TinyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rows.folder / "data").mkdir()
    rows.rows({"prompt": "1+1?", "demonstration": "2"}, name="data/train.jsonl")
    rows.rows({"prompt": "1" * 4096, "demonstration": "2"}, name="data/test.jsonl")
    monkeypatch.setattr(training_run, "load_student", None)
    said = rows.refused(*train("--eval_steps=1", rows="data"))
    assert said.startswith("custom/eval/0: the prompt has ")


def test_held_out_prompts_that_are_trained_on_are_told_of(rows: TinyHome) -> None:
    (rows.folder / "data").mkdir()
    for split in ("train", "test"):
        rows.rows({"prompt": "1+1?", "demonstration": "2"}, name=f"data/{split}.jsonl")
    said = rows.run(*train("--eval_steps=1", "--drift_prompts=0", "--dry_run", rows="data"))
    assert "1 of 1 evaluation prompts (100.0%) are in the training rows too" in said.out
