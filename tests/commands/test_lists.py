"""``tasks``, ``recipes``, and the reference's programs for evaluation."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from selfdistill import cli
from selfdistill.commands.tasks import markdown
from selfdistill.settings import flat
from selfdistill.settings.recipes import recipe_names
from selfdistill.tasks import TASKS, humaneval
from tests.support.tiny_home import TinyHome

ROOT = Path(__file__).parents[2]


def test_recipes_are_listed_with_what_they_are_for(home: TinyHome) -> None:
    said = home.run("recipes")
    assert said.code == 0
    for name in recipe_names():
        assert f"--config {name}" in said.out
    assert "on two CPU cores in a few minutes" in said.out


def test_tasks_are_listed_where_no_data_are_at_hand(home: TinyHome) -> None:
    said = home.run("tasks")
    assert said.code == 0
    rows = {line.split("│")[1].strip(): line for line in said.out.splitlines() if line.startswith("│")}
    assert set(TASKS) <= set(rows)
    assert "1,600" in rows["assistant-tools"]  # its rows come with the package
    assert [cell.strip() for cell in rows["science"].split("│")][3:6] == ["-", "-", "-"]


def test_broken_data_are_named_and_not_taken_for_missing_ones(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    home.rows({"neither": "prompt nor answer"}, name="data/medical_data/train_data/rows.jsonl")
    home.rows({"neither": "prompt nor answer"}, name="data/medical_data/eval_data/rows.jsonl")
    monkeypatch.setenv("SELFDISTILL_DATA", "data")
    said = home.run("tasks")
    assert said.code == 0
    assert said.out.count("Warning: ") == 1
    assert "Warning: data/medical_data" in said.out


def test_tasks_as_a_table_of_a_document(home: TinyHome) -> None:
    said = home.run("tasks", "--markdown")
    assert (said.code, said.out) == (0, markdown() + "\n")
    head, ruler, *rows = said.out.splitlines()
    assert head.count("|") == ruler.count("|") == 6
    assert [row.split("`")[1] for row in rows] == [*TASKS, humaneval.TASK.name]


def test_build_is_told_what_is_missing(home: TinyHome) -> None:
    before = home.files()
    assert "--output_dir is missing" in home.refused("build", "wiki")
    assert "build medical: --source is missing" in home.refused("build", "medical", "--output_dir=d")
    assert "nowhere.jsonl" in home.refused("build", "medical", "--output_dir=d", "--source=nowhere.jsonl")
    assert home.files() == before


# -- the reference's programs -------------------------------------------------------------------------------------


def asked_of(program: str, monkeypatch: pytest.MonkeyPatch, *argv: str) -> list[str]:
    """The command line that a program at the root of the checkout turns its own into."""
    asked: list[Any] = []
    monkeypatch.setattr(cli, "main", asked.extend)
    monkeypatch.setattr("sys.argv", [program, *argv])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / program), run_name="__main__")
    return asked


@pytest.mark.parametrize(("program", "task"), [("eval_science.py", "science"), ("eval_tooluse_simple.py", "tooluse")])
def test_the_references_evaluations_score_their_task(program: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command, *flags = asked_of(program, monkeypatch, "--model_path", "out", "--output_dir", "e")
    assert command == "eval"
    values = flat.flatten(cli.parse("eval", flags))
    assert (values["dataset_name"], values["model_path"], values["output_dir"]) == (task, "out", "e")
