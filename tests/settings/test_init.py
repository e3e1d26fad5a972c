"""``selfdistill init``: five questions, a commented file that ``train`` takes, three commands that run."""

import shlex
from pathlib import Path
from typing import Any, get_args

import pytest

from selfdistill.errors import UserError
from selfdistill.settings import flat
from selfdistill.settings.init import InitOptions, Method, answered, commands, write_file, yaml_text
from selfdistill.settings.train import TrainOptions
from selfdistill.settings.yaml_files import options_from_file
from tests.support.tiny_home import QUICK, TinyHome


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> TinyHome:
    return TinyHome(tmp_path, monkeypatch, capsys)


FLAGS = ("--dataset_path=rows.jsonl", "--model_name=M")


def test_the_three_commands_run_as_they_are_printed(home: TinyHome) -> None:
    said = home.run("init", *FLAGS, "--output_dir=runs/mine")
    assert (said.code, said.err) == (0, "")
    printed = [line.split("   #")[0].strip() for line in said.out.splitlines()[1:]]
    assert printed == [
        "selfdistill train --config selfdistill.yaml --dry_run",
        "selfdistill train --config selfdistill.yaml",
        "selfdistill report runs/mine",
    ]
    for line in printed:
        quick = [flag for flag in QUICK if "train" in line and not flag.startswith("--dtype")]
        assert home.run(*shlex.split(line)[1:], *quick).code == 0, line
    assert (home.folder / "runs" / "mine" / "report.html").is_file()


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("rank", [0, 8])
def test_every_answer_gives_a_file_that_train_takes(home: TinyHome, method: Any, rank: int) -> None:
    given = InitOptions(
        file="a.yaml", dataset_path="rows.jsonl", model_name="M", method=method, lora_r=rank, output_dir="o"
    )
    write_file(given)
    made = options_from_file(TrainOptions, "a.yaml")
    made.check()
    values = flat.flatten(made)
    assert (values["method"], values["lora_r"], values["output_dir"]) == (method, rank or None, "o")
    assert values["learning_rate"] == (2e-4 if rank else 2e-5)
    assert made.recipe.trainer.from_file == ()


def test_what_is_commented_out_is_a_setting_too(home: TinyHome) -> None:
    given = InitOptions(dataset_path="rows.jsonl", model_name="M", method="sft", lora_r=4, output_dir="o")
    names = flat.leaves(TrainOptions)
    lines = [line.lstrip("# ") for line in yaml_text(given).splitlines()]
    settings = [line.partition(":")[0] for line in lines if line.partition(":")[0].replace("_", "").isalnum()]
    assert {"eval_share", "dtype", "lora_alpha", "save_steps"} <= set(settings)
    assert {name for name in settings if "_" in name} <= set(names)


def test_names_with_signs_are_kept(home: TinyHome) -> None:
    home.rows({"prompt": "a", "demonstration": "b"}, name="my: rows #1's.jsonl")
    given = InitOptions(
        file="my file.yaml", dataset_path="my: rows #1's.jsonl", model_name="M", method="sft", lora_r=0, output_dir="o"
    )
    write_file(given)
    assert options_from_file(TrainOptions, "my file.yaml").source.dataset_path == "my: rows #1's.jsonl"
    assert shlex.split(commands(given)[0][0]) == ["selfdistill", "train", "--config", "my file.yaml", "--dry_run"]


def test_each_question_that_no_flag_answers_is_asked_once(home: TinyHome) -> None:
    asked: list[str] = []
    replies = iter(["rows.jsonl", "", " sdft ", "16", ""])

    def ask(question: str, default: str) -> str:
        asked.append(default)
        return next(replies)

    options = answered(InitOptions(file="x.yaml"), ask)
    assert asked == ["", "smollm2-135m", "sft", "0", "runs/x"]
    assert (options.dataset_path, options.model_name, options.method, options.lora_r, options.output_dir) == (
        *("rows.jsonl", "smollm2-135m", "sdft", 16, "runs/x"),
    )
    assert answered(options, lambda *_: pytest.fail("asked")) == options


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        (["nowhere.jsonl"], "--dataset_path nowhere.jsonl: no such file"),
        (["rows.jsonl", "", "sftt"], "--method 'sftt' is not one of sft, sdft"),
        (["rows.jsonl", "", "", "many"], "--lora_r 'many' is not a whole number"),
        ([""], "names a file without a name"),
    ],
)
def test_a_wrong_answer_is_told(home: TinyHome, replies: list[str], words: str) -> None:
    given = iter(replies)
    with pytest.raises(UserError, match=words):
        answered(InitOptions(), lambda *_: next(given))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "no terminal to ask in. Give --dataset_path and --model_name"),
        (("--dataset_path=rows.jsonl",), "Give --model_name"),
        ((*FLAGS, "--output_dir=M"), "--output_dir M is not empty and holds no run"),
        (("rows.jsonl", *FLAGS), "rows.jsonl exists. Name another file"),
        (("M", *FLAGS), "M exists"),
        (("--dataset_path=no*.jsonl", "--model_name=M"), "No file fits the pattern"),
        ((*FLAGS, "--lora_r=-1"), "lora_r: -1 is not at least 0"),
    ],
    ids=str,
)
def test_a_mistake_writes_nothing(home: TinyHome, argv: tuple[str, ...], words: str) -> None:
    before = home.files()
    assert words in home.refused("init", *argv)
    assert home.files() == before


def test_the_end_of_the_input_is_told(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", ended)
    assert "the input ended before all was answered" in home.refused("init")
