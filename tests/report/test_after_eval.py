"""Train, eval and report as a person calls them one after another: they meet in the run's folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill import cli
from tests.support.report_folders import as_json
from tests.support.study_home import make_home


def ran(command: str, *words: str) -> None:
    assert cli.main([command, *words]) == 0


@pytest.fixture
def home(tmp_path: Path, tiny_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a run in ``a``."""
    make_home(tmp_path, tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512), tokenizer)
    words = ["--dataset_path", str(tmp_path / "one.jsonl"), "--model_name", str(tmp_path / "model")]
    words += ["--method", "sft", "--max_steps", "1", "--dtype", "float32", "--output_dir", str(tmp_path / "a")]
    ran("train", *words, "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1")
    return tmp_path


def evaluated(home: Path, model: str, folder: str) -> None:
    words = ["--model_path", str(home / model), "--output_dir", str(home / folder)]
    words += ["--dataset_path", str(home / "two.jsonl"), "--scorer", f"{home / 'scorer.py'}:parity"]
    ran("eval", *words, "--max_new_tokens", "4")


def test_the_report_of_a_run_shows_what_eval_left_in_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(home, "a", "a/eval")
    ran("report", str(home / "a"))
    (comparison,) = as_json(home / "a" / "results.json")["comparisons"]
    assert (comparison["run"], comparison["after"]["num_total"]) == ("a", 30)
    assert comparison["after"]["value"] == as_json(home / "a" / "eval" / "eval_results.json")["accuracy"]
    assert (comparison["before"], comparison["test"]) == (None, None)
    assert "was not scored before training" in " ".join(capsys.readouterr().out.split())
    evaluated(home, "model", "a/eval-before")
    ran("report", str(home / "a"))
    (comparison,) = as_json(home / "a" / "results.json")["comparisons"]
    assert comparison["test"]["num_items"] == 30


def test_the_report_shows_evaluations_of_any_name_and_alone(home: Path) -> None:
    evaluated(home, "a", "a/scores")
    ran("report", str(home / "a"))
    (comparison,) = as_json(home / "a" / "results.json")["comparisons"]
    assert (comparison["run"], comparison["after"]["num_total"]) == ("scores", 30)
    ran("report", str(home / "a" / "scores"), "--output", str(home / "page"))
    results = as_json(home / "page" / "results.json")
    assert [each["after"]["num_total"] for each in results["comparisons"]] == [30]
    assert results["num_samples"] == 30
