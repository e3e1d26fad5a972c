"""What a person sees who makes a mistake: exit code 2, one message of at most 40 words, no traceback."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_home import TinyHome

GOOD = {"prompt": "What is 2 + 2?", "demonstration": "4"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> TinyHome:
    return TinyHome(tmp_path, monkeypatch, capsys)


def train(home: TinyHome, *argv: str) -> str:
    """The message of a ``train`` that must fail. Nothing may be written."""
    before = home.files()
    said = home.refused("train", "--output_dir=out", "--model_name=M", *argv)
    assert home.files() == before
    return said


def train_on(home: TinyHome, *rows: Any) -> str:
    """The message of a ``train`` on these rows, in ``data.jsonl``."""
    home.rows(*rows, name="data.jsonl")
    return train(home, "--dataset_path=data.jsonl")


def test_missing_file(home: TinyHome) -> None:
    home.rows(GOOD, name="data.jsonl")
    said = train(home, "--dataset_path=dta.jsonl")
    assert "dta.jsonl" in said
    assert "data.jsonl" in said  # the likely name


def test_empty_data_set(home: TinyHome) -> None:
    assert "data.jsonl" in train_on(home)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([GOOD, {"demonstration": "4"}], ["data.jsonl line 2", "prompt"]),
        ([GOOD, GOOD, {"prompt": "Hi"}], ["data.jsonl line 3", "demonstration"]),
        ([{"prompt": ["a", "b"], "demonstration": "4"}], ["data.jsonl line 1"]),
    ],
)
def test_a_bad_row_is_named(home: TinyHome, rows: list[Any], words: list[str]) -> None:
    said = train_on(home, *rows)
    for word in words:
        assert word in said


def test_broken_json_line(home: TinyHome) -> None:
    (home.folder / "data.jsonl").write_text(json.dumps(GOOD) + "\n{oops\n")
    assert re.search(r"data\.jsonl.*(line|row) 2", train(home, "--dataset_path=data.jsonl"))


def test_missing_data_folder(home: TinyHome) -> None:
    assert "--data_dir" in train(home, "--dataset_name=tooluse")


def test_overlong_demonstration(home: TinyHome) -> None:
    home.rows(GOOD, {"prompt": "What is 2 + 2?", "demonstration": "four " * 300}, name="data.jsonl")
    limits = ("--template=paper", "--max_teacher_prompt_length=200")
    said = train(home, "--dataset_path=data.jsonl", *limits, "--max_completion_length=16")
    assert "custom/train/1" in said
    assert "200" in said
    assert "--max_teacher_prompt_length" in said


@pytest.mark.parametrize("value", ["-1", "nan"])
def test_bad_learning_rate(home: TinyHome, value: str) -> None:
    said = train(home, f"--learning_rate={value}")
    assert "learning_rate" in said
    assert value in said


def test_no_output_folder(home: TinyHome) -> None:
    for command in ("train", "eval", "compare", "continual"):
        assert "--output_dir" in home.refused(command)
    assert "--ledger" in home.refused("learn")


def test_resume_without_checkpoint(home: TinyHome) -> None:
    assert "holds no run to go on with" in train(home, "--resume")


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("learning_rate: 1e-5\nlerning_rate: 2\n", ["config.yaml line 2", "'lerning_rate'", "learning_rate"]),
        ("seed: 1\nseed: 2\n", ["config.yaml line 2", "twice"]),
        ("learning_rate: fast\n", ["config.yaml line 1", "'fast'"]),
        ("a: [1\n", ["config.yaml", "line"]),
        ("- 1\n", ["config.yaml"]),
        ("teacher: emma\n", ["config.yaml line 1", "'emma'"]),
    ],
)
def test_yaml(home: TinyHome, yaml: str, words: list[str]) -> None:
    (home.folder / "config.yaml").write_text(yaml)
    said = train(home, "--config=config.yaml")
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("max_grad_nrm=1", ["max_grad_nrm", "unknown"]),
        ("logging_steps", ["name=value"]),
        ("optim_args=[1", ["optim_args"]),
        ("adam_beta1=high", ["adam_beta1", "'high'"]),
        ("bf16=true", ["--dtype"]),
    ],
)
def test_set(home: TinyHome, assignment: str, words: list[str]) -> None:
    said = train(home, f"--set={assignment}")
    for word in words:
        assert word in said
