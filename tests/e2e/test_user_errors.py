"""What a person sees who makes a mistake: exit code 2, one message of at most 40 words, no traceback."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from selfdistill.cli import COMMANDS, main

GOOD = {"prompt": "What is 2 + 2?", "demonstration": "4"}


def rows(folder: Path, *values, name="data.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return str(path)


def message(capsys, *argv: str) -> str:
    """Runs a command that must fail as a user's error; returns its one message."""
    code = main(list(argv))
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert "Traceback" not in err + out
    assert err.count("\n") == 1, err
    text = err.removeprefix("selfdistill: ").strip()
    assert len(text.split()) <= 40, f"{len(text.split())} words: {text}"
    return text


def train(capsys, folder: Path, *argv: str) -> str:
    return message(capsys, "train", "--output_dir", str(folder / "out"), *argv)


def test_missing_file(capsys, tmp_path):
    rows(tmp_path, GOOD)
    text = train(capsys, tmp_path, "--dataset_path", str(tmp_path / "dta.jsonl"))
    assert "dta.jsonl" in text
    assert "data.jsonl" in text  # the likely name


def test_empty_data_set(capsys, tmp_path):
    assert "data.jsonl" in train(capsys, tmp_path, "--dataset_path", rows(tmp_path))


def test_row_without_prompt(capsys, tmp_path):
    text = train(capsys, tmp_path, "--dataset_path", rows(tmp_path, GOOD, {"demonstration": "4"}))
    assert "data.jsonl row 2" in text
    assert "prompt" in text


def test_row_without_demonstration(capsys, tmp_path):
    text = train(capsys, tmp_path, "--dataset_path", rows(tmp_path, GOOD, GOOD, {"prompt": "Hi"}))
    assert "data.jsonl row 3" in text
    assert "demonstration" in text


def test_list_where_text_belongs(capsys, tmp_path):
    text = train(capsys, tmp_path, "--dataset_path", rows(tmp_path, {"prompt": ["a", "b"], "demonstration": "4"}))
    assert "data.jsonl row 1" in text


def test_broken_json_line(capsys, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(GOOD) + "\n{oops\n")
    text = train(capsys, tmp_path, "--dataset_path", str(path))
    assert re.search(r"data\.jsonl.*(line|row) 2", text)


def test_unknown_dataset_name(capsys, tmp_path):
    text = train(capsys, tmp_path, "--dataset_name", "tool-use")
    assert "'tool-use'" in text
    assert "Did you mean 'tooluse'?" in text


def test_unknown_model_name(capsys, tmp_path):
    text = train(capsys, tmp_path, "--model_name", "smollm2-153m")
    assert "smollm2-153m" in text
    assert "smollm2-135m" in text


def test_missing_data_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("SELFDISTILL_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "--data_dir" in train(capsys, tmp_path, "--dataset_name", "tooluse")


@pytest.mark.model
def test_overlong_demonstration(capsys, tmp_path):
    long = {"prompt": "What is 2 + 2?", "demonstration": "four " * 300}
    path = rows(tmp_path, GOOD, long)
    text = train(capsys, tmp_path, "--dataset_path", path, "--template=paper", "--max_teacher_prompt_length=200")
    assert "custom/train/1" in text
    assert "200" in text
    assert "--max_teacher_prompt_length" in text


@pytest.mark.parametrize("value", ["-1", "nan"])
def test_bad_learning_rate(capsys, tmp_path, value):
    text = train(capsys, tmp_path, "--learning_rate", value)
    assert "learning_rate" in text
    assert value in text


def test_output_folder_in_use(capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    text = train(capsys, tmp_path)
    assert "--resume" in text
    assert "--overwrite" in text
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_no_output_folder(capsys):
    assert "--output_dir" in message(capsys, "train")
    assert "--output_dir" in message(capsys, "eval")


def test_resume_without_checkpoint(capsys, tmp_path):
    assert "checkpoint" in train(capsys, tmp_path, "--resume")


def test_unknown_command(capsys):
    assert "Did you mean 'train'?" in message(capsys, "trian")


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("learning_rate: 1e-5\nlerning_rate: 2\n", ["config.yaml line 2", "'lerning_rate'", "learning_rate"]),
        ("seed: 1\nseed: 2\n", ["config.yaml line 2", "twice"]),
        ("learning_rate: fast\n", ["config.yaml line 1", "'fast'"]),
        ("a: [1\n", ["config.yaml", "line"]),
        ("- 1\n", ["config.yaml"]),
        ("teacher: emma\n", ["config.yaml line 1", "'emma'"]),
    ],
)
def test_yaml(capsys, tmp_path, yaml, said):
    path = tmp_path / "config.yaml"
    path.write_text(yaml)
    text = train(capsys, tmp_path, "--config", str(path))
    for part in said:
        assert part in text


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("max_grad_nrm=1", ["max_grad_nrm", "unknown"]),
        ("logging_steps", ["name=value"]),
        ("optim_args=[1", ["optim_args"]),
        ("adam_beta1=high", ["adam_beta1", "'high'"]),
        ("bf16=true", ["--dtype"]),
    ],
)
def test_set(capsys, tmp_path, assignment, said):
    text = train(capsys, tmp_path, "--set", assignment)
    for part in said:
        assert part in text


def test_misspelt_flag_is_named(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--lerning_rate", "1"])
    assert stop.value.code == 2
    assert "--learning_rate" in capsys.readouterr().err


def test_help_needs_no_torch_and_fits_the_screen():
    script = (
        "import sys, time; start = time.perf_counter()\n"
        "from selfdistill.cli import main\n"
        "assert main(['--help']) == 0\n"
        "assert time.perf_counter() - start < 0.5\n"
        "assert 'torch' not in sys.modules\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    top = done.stdout.split("usage: selfdistill train")[0]
    assert len(top.splitlines()) <= 24
    assert max(map(len, top.splitlines())) <= 80
    for command in COMMANDS:
        assert command in top


def test_hyphens_work_like_underscores(capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    assert "not empty" in message(capsys, "train", "--output-dir", str(tmp_path / "out"))
