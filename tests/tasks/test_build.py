"""``build``: the data that it writes, and its refusals."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from rich.console import Console

from selfdistill import cli
from selfdistill.commands import build
from selfdistill.evaluate import ask
from selfdistill.settings import flat
from selfdistill.settings.build import BuildOptions
from selfdistill.tasks import TASKS
from selfdistill.tasks.build import BUILDERS
from selfdistill.tasks.build.rows import check_folder, write_rows
from selfdistill.types import Message
from tests.support.mistakes import mistake


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def public_row(number: int) -> dict[str, str]:
    return {
        "Question": f"Which {number}?",
        "Complex_CoT": "Hmm.",
        "Response": f"{number}.",
        "Ground-True Answer": f"N{number}",
    }


def source(folder: Path) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(public_row(number)) + "\n" for number in range(20)))
    return str(path)


def medical_options(folder: Path, **others: Any) -> BuildOptions:
    """Builds ``<folder>/data/medical_data`` of 20 public rows."""
    given = {"task": "medical", "source": source(folder), "output_dir": str(folder / "data")}
    return flat.build(BuildOptions, given | others)


def test_there_is_a_builder_for_every_task_that_the_command_takes():
    assert list(BUILDERS) == ["medical", "wiki"]
    assert {name for name in BUILDERS if name not in TASKS} == set()


def test_medical(tmp_path: Path):
    out = console()
    build.run(medical_options(tmp_path), out)
    train, evaluation = (load(tmp_path / "data") for load in (TASKS["medical"].load_train, TASKS["medical"].load_eval))
    assert (len(train), len(evaluation)) == (18, 2)
    assert {row.reference for row in (*train, *evaluation)} == {f"N{number}" for number in range(20)}
    assert "20 of 20 rows" in printed(out)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["medical_data"]


def test_limit_and_number_of_evaluation_rows(tmp_path: Path):
    build.run(medical_options(tmp_path, limit=10, num_eval=3), console())
    assert len(TASKS["medical"].load_train(tmp_path / "data")) == 7
    assert len(TASKS["medical"].load_eval(tmp_path / "data")) == 3


def write_articles(folder: Path) -> str:
    (folder / "articles").mkdir()
    for name in ("flood", "storm"):
        (folder / "articles" / f"{name}.txt").write_text(" ".join([name] * 30))
    return str(folder / "articles")


def answer(prompt: str) -> str:
    """Two questions about an article; indirect ones have other words."""
    word, name = "why" if "directly" in prompt else "how", prompt.split('"')[1]
    return "\n".join(f"Q: Number {n}: {word} was {name}?\nA: So {n}." for n in "ab")


def test_wiki_asks_one_model_for_all_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loaded: list[Any] = []

    class Model:
        def __init__(self, *arguments: Any) -> None:
            loaded.append(arguments)

        def answers(self, chats: Sequence[tuple[Message, ...]]) -> list[str]:
            return [answer(chat[-1]["content"]) for chat in chats]

    monkeypatch.setattr(ask, "ChatModel", Model)
    out = console()
    given = {"task": "wiki", "articles": write_articles(tmp_path), "model_name": "m"}
    options = flat.build(BuildOptions, given | {"output_dir": str(tmp_path / "data"), "seed": 7})
    build.run(options, out)
    assert loaded == [(options.wiki, 7, out)]
    train, evaluation = (load(tmp_path / "data") for load in (TASKS["wiki"].load_train, TASKS["wiki"].load_eval))
    # four questions: one is held out, one more is asked indirectly
    assert len(train) == 3
    assert [row.part for row in evaluation] == ["direct", "ood"]
    assert "2 passages of 2 articles" in printed(out)


def test_no_question_left_to_evaluate_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Model:
        def __init__(self, *_: Any) -> None:
            pass

        def answers(self, chats: Sequence[tuple[Message, ...]]) -> list[str]:
            return [answer(chat[-1]["content"]).partition("\nQ: Number b")[0] for chat in chats]

    monkeypatch.setattr(ask, "ChatModel", Model)
    given = {"task": "wiki", "articles": write_articles(tmp_path), "model_name": "m", "output_dir": str(tmp_path / "x")}
    assert "--questions_per_passage" in mistake(build.run, flat.build(BuildOptions, given), console())
    assert not (tmp_path / "x").exists()


# -- existing data ------------------------------------------------------------------------------------------------


def test_existing_data_are_kept_without_overwrite(tmp_path: Path):
    options = medical_options(tmp_path)
    build.run(options, console())
    assert "--overwrite" in mistake(build.run, options, console())
    build.run(medical_options(tmp_path, overwrite=True, limit=10, num_eval=3), console())
    assert len(TASKS["medical"].load_train(tmp_path / "data")) == 7


def test_a_folder_with_something_else_is_refused_before_anything_is_read(tmp_path: Path):
    folder = tmp_path / "data" / "medical_data"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    options = medical_options(tmp_path, overwrite=True, source="no-such-file.jsonl")
    assert "holds something other than train_data and eval_data" in mistake(build.run, options, console())
    assert (folder / "notes.txt").read_text() == "mine"


def test_which_folders_may_be_written_to(tmp_path: Path):
    check_folder(tmp_path / "new", overwrite=False)
    (tmp_path / "file").write_text("")
    (tmp_path / "data" / "train_data").mkdir(parents=True)
    for name in ("file", "data"):
        assert "exists" in mistake(check_folder, tmp_path / name, overwrite=False)
    assert "something other" in mistake(check_folder, tmp_path / "file", overwrite=True)
    check_folder(tmp_path / "data", overwrite=True)
    for overwrite in (False, True):
        said = mistake(check_folder, tmp_path / "file" / "x_data", overwrite=overwrite)
        assert said == f"--output_dir: {tmp_path / 'file'} is a file. Name a folder."


def test_a_failed_write_leaves_the_old_data_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "x_data"
    write_rows(folder, [{"question": "old"}], [{"question": "old"}])

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", fail)
    with pytest.raises(OSError, match="disk full"):
        write_rows(folder, [{"question": "new"}], [{"question": "new"}])
    assert datasets.load_from_disk(str(folder / "train_data"))[0] == {"question": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["x_data"]


# -- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["medical", "--source", "x.csv", "--output_dir", "y"], "No such file"),
        (["medical", "--source", "x.jsonl", "--output_dir", "y"], "No such file"),
        (["wiki", "--articles", "none", "--output_dir", "y", "--model_name", "m"], "--articles none is not a folder"),
        (["medical", "--output_dir", "y"], "--source is missing"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["build", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.split()) <= 41  # the program's name and 40 words
