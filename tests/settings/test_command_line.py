"""Command lines to options: every command, without torch; and the reference's own command."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from selfdistill import cli
from selfdistill.settings import flat
from selfdistill.settings.method import PAPER
from selfdistill.settings.recipes import recipe_names
from selfdistill.settings.train import TrainOptions
from tests.support.mistakes import mistake
from tests.support.options import OPTIONS, TRAINING

MAIN = Path(__file__).parents[2] / "main.py"
HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets")


def test_options_are_parsed_without_torch_a_file_included():
    """In one process of its own: what a test before it has loaded must not count."""
    lines = [[command] for command in OPTIONS] + [[name, "--config", "sdft-cpu"] for name in TRAINING]
    code = (
        "import json, sys\n"
        "from selfdistill import cli\n"
        "for command, *arguments in json.loads(sys.argv[1]):\n"
        "    cli.parse(command, arguments)\n"
        "    loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]\n"
        "    assert not loaded, (command, arguments, loaded)\n"
    )
    call = [sys.executable, "-c", code, json.dumps(lines), json.dumps(HEAVY)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", OPTIONS)
def test_without_arguments_options_are_their_defaults(command: str):
    assert cli.parse(command, []) == flat.with_home(OPTIONS[command]())


@pytest.mark.parametrize("command", OPTIONS)
def test_every_setting_has_its_flag(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        cli.parse(command, ["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out.replace("-", "_")
    hidden = {"from_file", *(("method", "dataset_name") if command in ("compare", "continual") else ())}
    positional = {"data": "files", "build": "task", "init": "file"} | dict.fromkeys(
        ("report", "ledger", "export", "watch"), "folder"
    )
    names = set(flat.leaves(OPTIONS[command])) - hidden - {positional.get(command)}
    assert [name for name in sorted(names) if f"__{name}" not in said] == []


def test_an_unknown_command_is_answered_with_one_like_it():
    assert "Did you mean 'train'?" in mistake(cli.parse, "trian", [])


# -- the reference's command --------------------------------------------------------------------------------------


def arguments_of_main(monkeypatch: pytest.MonkeyPatch, *given: str) -> list[str]:
    """What main.py hands to the command line."""
    seen: list[list[str]] = []
    monkeypatch.setattr(cli, "main", lambda arguments: seen.append(arguments) or 0)
    monkeypatch.setattr(sys, "argv", [str(MAIN), *given])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(MAIN))
    assert stop.value.code == 0
    (arguments,) = seen
    return arguments


def test_the_papers_settings_are_settings_of_train():
    assert set(PAPER) <= set(flat.leaves(TrainOptions))


def test_the_references_command_trains_in_the_papers_setting(monkeypatch: pytest.MonkeyPatch):
    command, *arguments = arguments_of_main(monkeypatch, "--dataset_name", "tooluse", "--output_dir", "out")
    assert command == "train"
    values = flat.flatten(cli.parse(command, arguments))
    assert {name: values[name] for name in PAPER} == PAPER
    assert (values["overlong"], values["dataset_name"], values["output_dir"]) == ("drop", "tooluse", "out")
    assert (values["teacher_home"], values["activation_checkpointing"]) == ("host", True)  # so that 7B fits one H200
    ours: dict[str, Any] = flat.flatten(TrainOptions()) | PAPER
    own = {"overlong", "dataset_name", "output_dir", "teacher_home", "activation_checkpointing"}
    assert {name: value for name, value in values.items() if name not in own} == {
        name: value for name, value in ours.items() if name not in own
    }


def test_its_flags_win_over_the_papers(monkeypatch: pytest.MonkeyPatch):
    given = ("--num_loss_tokens_to_skip", "0", "--overlong=error", "--learning_rate", "5e-5", "--num_train_epochs=2")
    values = flat.flatten(cli.parse("train", arguments_of_main(monkeypatch, *given)[1:]))
    assert (values["num_loss_tokens_to_skip"], values["overlong"]) == (0, "error")
    assert (values["learning_rate"], values["num_train_epochs"]) == (5e-5, 2.0)
    assert values["max_prompt_length"] == 1024


def test_its_help_is_trains(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        cli.parse("train", arguments_of_main(monkeypatch, "--help")[1:])
    assert stop.value.code == 0
    assert "--num_loss_tokens_to_skip" in capsys.readouterr().out.replace(
        "num-loss-tokens-to-skip", "num_loss_tokens_to_skip"
    )


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if name.startswith(("paper-t", "paper-sc"))])
def test_the_papers_recipes_are_in_its_setting(recipe: str):
    values = flat.flatten(cli.parse("train", ["--config", recipe]))
    assert {name: values[name] for name in PAPER} == PAPER
    assert values["overlong"] == "drop"


def test_the_recipe_for_a_sequence_has_what_its_authors_answered():
    values = flat.flatten(cli.parse("continual", ["--config", "paper-sequence-qwen2.5-7b", "--stages=tooluse,science"]))
    answered = {
        "learning_rate": 1e-5,
        "warmup_steps": 10,
        "lr_scheduler_type": "cosine",
        "divergence": "forward_kl",
        "sampler_correction_cap": 2.0,
        "num_loss_tokens_to_skip": 3,
        "num_train_epochs": 2.0,
    }
    assert {name: values[name] for name in answered} == answered
    assert values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] == 32
    assert (values["teacher"], values["teacher_anchor"]) == ("frozen", "previous")
