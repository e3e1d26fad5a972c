"""The table of tasks: each one's description, and how ``selfdistill tasks`` shows it."""

import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from selfdistill import cli
from selfdistill.tasks import TASKS, get_task, humaneval, resolve_data_dir
from selfdistill.tasks.task import Task
from tests.support.mistakes import mistake

DOCS = Path(__file__).parents[2] / "docs"


def test_names():
    assert list(TASKS) == [
        "assistant-tools",
        *("notes", "orders", "tickets"),
        *("tooluse", "science", "medical", "wiki"),
    ]
    assert all(get_task(name).name == name for name in TASKS)


@pytest.mark.parametrize("task", [*TASKS.values(), humaneval.TASK], ids=lambda task: task.name)
def test_every_task_describes_itself(task: Task):
    for text in (task.name, task.description, task.source, task.licence, task.revision):
        assert text.strip()
        assert "\n" not in text
    assert task.description.endswith(".")
    assert task.max_new_tokens > 0
    assert task.scorers
    assert set(task.judged) | set(task.programs) <= set(task.scorers)


def test_unknown_name_is_corrected():
    message = mistake(get_task, "tool-use")
    assert "Did you mean 'tooluse'?" in message
    assert "assistant-tools, notes, orders, tickets, tooluse, science" in message


def test_a_name_like_none_of_them_is_not_corrected():
    assert "Did you mean" not in mistake(get_task, "xyz")


# -- the data folder ----------------------------------------------------------------------------------------------


def test_data_dir_flag_then_variable_then_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SELFDISTILL_DATA", raising=False)
    assert resolve_data_dir(None) is None
    for name in ("flag", "variable", "data"):
        (tmp_path / name).mkdir()
    assert resolve_data_dir(None) == Path("data")
    monkeypatch.setenv("SELFDISTILL_DATA", str(tmp_path / "variable"))
    assert resolve_data_dir(None) == tmp_path / "variable"
    assert resolve_data_dir(str(tmp_path / "flag")) == tmp_path / "flag"


def test_data_dir_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "--data_dir is 'nowhere'" in mistake(resolve_data_dir, "nowhere")
    monkeypatch.setenv("SELFDISTILL_DATA", str(tmp_path / "nothing"))
    assert "SELFDISTILL_DATA is" in mistake(resolve_data_dir, None)


def test_importing_tasks_loads_no_heavy_package():
    code = (
        "import sys, selfdistill.tasks, selfdistill.tasks.custom, selfdistill.tasks.build;"
        "print([m for m in ('torch', 'datasets', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def medical_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SELFDISTILL_DATA with 18 medical rows for training, and the same again for evaluation."""
    columns = ("question", "complex_cot", "response", "ground_truth")
    rows = [dict.fromkeys(columns, f"text {number}") for number in range(18)]
    for split in ("train_data", "eval_data"):
        datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "medical_data" / split))
    monkeypatch.setenv("SELFDISTILL_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


def test_the_table_counts_rows_and_overlap_where_data_are_at_hand(
    medical_data: None, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {name: next(line for line in lines if name in line).split() for name in ("medical", "science")}
    assert [cells["medical"].count("18"), cells["medical"].count("100.0%")] == [2, 1]
    assert cells["science"].count("-") == 3


def test_the_page_on_evaluation_holds_the_printed_table(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["tasks", "--markdown"]) == 0
    table = capsys.readouterr().out
    assert [line.split("|")[1].strip(" `") for line in table.splitlines()[2:]] == [*TASKS, "humaneval-quick"]
    assert "`judge` (judge), `contains_answer`" in table
    assert table in (DOCS / "evaluation.md").read_text(encoding="utf-8")
